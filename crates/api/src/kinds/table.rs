//! The set of rows, sorted for lookup, and the order of versions.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Kind, builtin};

/// Every kind that is served, found by resource or by kind.
#[derive(Clone, Debug, Default)]
pub struct KindTable {
    /// Sorted by (group, plural, version).
    by_resource: Vec<Arc<Kind>>,
    /// Sorted by (group, kind, version).
    by_kind: Vec<Arc<Kind>>,
    /// The hash of (group, plural) of each run in `by_resource` and where it begins, sorted by hash. Every request looks rows up
    /// several times; comparing texts all over the heap was a twentieth of a small request.
    runs: Vec<(u64, usize)>,
}

/// FNV-1a over group and plural. The table holds what the cluster's administrator lets in, and a collision costs a step.
fn run_hash(group: &str, plural: &str) -> u64 {
    let bytes = group.bytes().chain(std::iter::once(b'/')).chain(plural.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn resource_key(k: &Kind) -> (&str, &str, &str) {
    (&k.group, &k.plural, &k.version)
}

fn kind_key(k: &Kind) -> (&str, &str, &str) {
    (&k.group, &k.kind, &k.version)
}

impl KindTable {
    /// The built-in kinds that a server of default configuration serves.
    pub fn builtin() -> Self {
        Self::from_rows(builtin::rows().filter(|k| k.default_served))
    }

    /// Every built-in kind that is known, with the alpha and beta versions that upstream leaves off.
    pub fn all() -> Self {
        Self::from_rows(builtin::rows())
    }

    /// Takes in the built-in rows of a group and version, which need not be served by default. Whether there are any.
    pub fn serve(&mut self, group: &str, version: &str) -> bool {
        let rows: Vec<Kind> = builtin::rows().filter(|k| k.group == group && k.version == version).collect();
        let any = !rows.is_empty();
        rows.into_iter().for_each(|row| self.place(Arc::new(row)));
        self.index();
        any
    }

    /// A table of the given rows; of rows with equal (group, version, plural) the last one stays.
    pub fn from_rows(rows: impl IntoIterator<Item = Kind>) -> Self {
        let mut table = Self::default();
        for row in rows {
            table.place(Arc::new(row));
        }
        table.index();
        table
    }

    /// Adds a row, or puts it in place of the one with the same group, version and plural.
    pub fn insert(&mut self, row: Arc<Kind>) {
        self.place(row);
        self.index();
    }

    fn place(&mut self, row: Arc<Kind>) {
        self.take(&row.group, &row.version, &row.plural);
        let at = self.by_resource.partition_point(|k| resource_key(k) < resource_key(&row));
        self.by_resource.insert(at, Arc::clone(&row));
        let at = self.by_kind.partition_point(|k| kind_key(k) < kind_key(&row));
        self.by_kind.insert(at, row);
    }

    fn index(&mut self) {
        let starts = self.by_resource.iter().enumerate().filter(|(at, row)| {
            *at == 0 || (&self.by_resource[at - 1].group, &self.by_resource[at - 1].plural) != (&row.group, &row.plural)
        });
        self.runs = starts.map(|(at, row)| (run_hash(&row.group, &row.plural), at)).collect();
        self.runs.sort_unstable();
    }

    /// The rows of a group and plural, in the order of their versions' names.
    fn run(&self, group: &str, plural: &str) -> &[Arc<Kind>] {
        let hash = run_hash(group, plural);
        let same = |k: &&Arc<Kind>| k.group == group && k.plural == plural;
        let from = self.runs.partition_point(|(h, _)| *h < hash);
        for (_, at) in self.runs[from..].iter().take_while(|(h, _)| *h == hash) {
            let count = self.by_resource[*at..].iter().take_while(same).count();
            if count > 0 {
                return &self.by_resource[*at..at + count];
            }
        }
        &[]
    }

    /// Takes a row out and returns it.
    pub fn remove(&mut self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let row = self.take(group, version, plural)?;
        self.index();
        Some(row)
    }

    fn take(&mut self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let at = self.by_resource.binary_search_by(|k| resource_key(k).cmp(&(group, plural, version))).ok()?;
        let row = self.by_resource.remove(at);
        self.by_kind.retain(|k| !Arc::ptr_eq(k, &row));
        Some(row)
    }

    /// The row that serves `/apis/{group}/{version}/…/{plural}`.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.run(group, plural).iter().find(|k| k.version == version)
    }

    /// The row of that group, version and kind.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let at = self.by_kind.binary_search_by(|k| kind_key(k).cmp(&(group, kind, version))).ok()?;
        self.by_kind.get(at)
    }

    /// The rows of a group and plural in every version it is served under.
    pub fn versions<'a>(&'a self, group: &'a str, plural: &'a str) -> impl Iterator<Item = &'a Arc<Kind>> {
        self.run(group, plural).iter()
    }

    /// The row of a group and kind in its most preferred version.
    pub fn preferred<'a>(&'a self, group: &'a str, kind: &'a str) -> Option<&'a Arc<Kind>> {
        let from = self.by_kind.partition_point(|k| (&*k.group, &*k.kind) < (group, kind));
        self.by_kind[from..]
            .iter()
            .take_while(move |k| k.group == group && k.kind == kind)
            .min_by(|a, b| compare_versions(&a.version, &b.version))
    }

    /// The row in whose form objects of the given row are stored, if it is in the table.
    pub fn storage_row(&self, kind: &Kind) -> Option<&Arc<Kind>> {
        self.kind(&kind.storage_group, &kind.storage_version, &kind.kind)
    }

    /// Every row, by group, then plural, then version.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.by_resource.iter()
    }

    /// The rows of one group version in alphabetical order of their plural.
    pub fn group_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Kind>> {
        self.by_resource.iter().filter(move |k| k.group == group && k.version == version)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.by_resource.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.by_resource.is_empty()
    }
}

/// Orders versions from the most to the least preferred: stable before beta before alpha, higher
/// numbers first, names of another form last and alphabetical (the "kube-aware" order that
/// CustomResourceDefinition versions are documented to be served in).
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (version_rank(a), version_rank(b)) {
        (Some(x), Some(y)) => y.cmp(&x),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// (stability, major, minor): `v2beta3` is (1, 2, 3).
fn version_rank(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let major = number(&rest[..digits])?;
    let (stability, minor) = match &rest[digits..] {
        "" => (2, 0),
        tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(n), _) => (1, number(n)?),
            (_, Some(n)) => (0, number(n)?),
            _ => return None,
        },
    };
    Some((stability, major, minor))
}

fn number(digits: &str) -> Option<u64> {
    match digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0') {
        true => digits.parse().ok(),
        false => None,
    }
}

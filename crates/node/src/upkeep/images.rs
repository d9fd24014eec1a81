//! Removing images that no container uses when their file system fills up. Pinned images (all that were imported) stay.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use caravel_runtime as rt;

use crate::machine;
use crate::shared::Shared;

/// An image must have been seen unused for this long.
const MIN_AGE: Duration = Duration::from_secs(120);

/// When images were used last.
#[derive(Default)]
pub struct Images {
    used: HashMap<String, Instant>,
}

impl Images {
    /// Notes what is used and, past the upper mark, removes what was not used for longest until the lower one.
    pub async fn collect(&mut self, shared: &Shared) {
        if let Err(e) = self.try_collect(shared).await {
            tracing::warn!(error = %e, "cannot look after images");
        }
    }

    async fn try_collect(&mut self, shared: &Shared) -> rt::Result<()> {
        let images = shared.runtime.list_images().await?;
        let containers = shared.runtime.list_containers(&rt::ContainerFilter::default()).await?;
        let now = Instant::now();
        let in_use: HashSet<&str> =
            containers.iter().flat_map(|c| [c.image.as_str(), c.image_ref.as_str(), c.image_id.as_str()]).collect();
        self.used.retain(|id, _| images.iter().any(|i| &i.id == id));
        for i in &images {
            let names = i.repo_tags.iter().chain(&i.repo_digests).chain([&i.id]);
            let used = names.into_iter().any(|n| in_use.contains(n.as_str()));
            if used {
                self.used.insert(i.id.clone(), now);
            } else {
                self.used.entry(i.id.clone()).or_insert(now);
            }
        }
        let info = shared.runtime.image_fs_info().await?;
        let Some(mount) = info.image_filesystems.first().map(|f| f.mountpoint.clone()) else { return Ok(()) };
        let Some(disk) = machine::disk(Path::new(&mount)).filter(|d| d.total > 0) else { return Ok(()) };
        let t = &shared.config.thresholds;
        if disk.available >= t.image_gc_start.of(disk.total) {
            return Ok(());
        }
        let excess = t.image_gc_stop.of(disk.total).saturating_sub(disk.available);
        for image in candidates(&images, &self.used, now, excess) {
            tracing::info!(
                image = image.repo_tags.first().unwrap_or(&image.id),
                bytes = image.size,
                "removing an unused image"
            );
            shared.runtime.remove_image(&image.id).await?;
        }
        Ok(())
    }
}

/// What to remove to win so many bytes.
fn candidates<'a>(
    images: &'a [rt::Image],
    used: &HashMap<String, Instant>,
    now: Instant,
    excess: u64,
) -> Vec<&'a rt::Image> {
    let age = |i: &rt::Image| used.get(&i.id).map_or(Duration::ZERO, |u| now.saturating_duration_since(*u));
    let mut old: Vec<&rt::Image> = images.iter().filter(|i| !i.pinned && age(i) >= MIN_AGE).collect();
    old.sort_by_key(|i| std::cmp::Reverse(age(i)));
    let mut won = 0;
    old.into_iter()
        .take_while(|i| {
            let more = won < excess;
            won += i.size;
            more
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_longest_unused_go_first_and_pinned_ones_stay() {
        let now = Instant::now() + Duration::from_secs(10_000);
        let image = |id: &str, pinned| rt::Image { id: id.into(), size: 10, pinned, ..Default::default() };
        let images = [image("a", false), image("b", false), image("c", true), image("d", false)];
        let ago = |s| now.checked_sub(Duration::from_secs(s)).unwrap();
        let used = HashMap::from([
            ("a".to_owned(), ago(200)),
            ("b".to_owned(), ago(300)),
            ("c".to_owned(), ago(900)),
            ("d".to_owned(), ago(10)),
        ]);
        let ids = |excess| candidates(&images, &used, now, excess).iter().map(|i| i.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(5), ["b"]);
        assert_eq!(ids(100), ["b", "a"]);
    }
}

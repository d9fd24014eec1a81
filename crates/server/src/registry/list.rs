//! LIST: a consistent state, or a page of one.

use super::options::{ListOptions, VersionMatch};
use super::{Registry, keys, store_error};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caravel_api::kinds::Kind;
use caravel_api::meta::Filter;
use caravel_api::selector::{FieldDef, FieldForm, FieldSelector, LabelSelector};
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, Error as StoreError, Revision};
use serde_json::{Value, json};
use std::sync::Arc;

/// The longest continue token looked at.
const MAX_TOKEN: usize = 4096;

/// A list, or a page of one.
pub struct Listed {
    /// The entries that passed the selectors, in key order.
    pub entries: Vec<Arc<Entry>>,
    /// The revision of the list.
    pub revision: Revision,
    /// The token for the next page; empty on the last.
    pub token: String,
    /// How many further items there are, when that is known.
    pub remaining: Option<u64>,
}

/// Where a next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// The revision to stay at; `None` for a list that goes on at the newest state.
    revision: Option<Revision>,
    /// The last key of the page before, without the prefix.
    after: String,
}

impl Place {
    fn encode(&self) -> String {
        let revision = self.revision.map_or(json!(-1), |r| json!(r));
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": self.after}).to_string())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        let bad = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        if token.len() > MAX_TOKEN {
            return Err(bad("it is too long"));
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|_| bad("it is not base64; send back the token that the list gave, unchanged"))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad("it is not what a list gave"))?;
        if value.get("v").and_then(Value::as_str) != Some("meta.k8s.io/v1") {
            return Err(bad("server does not recognize this encoded version"));
        }
        let after = value.get("start").and_then(Value::as_str).unwrap_or_default().to_owned();
        if after.is_empty() || after.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad("it names no place in a list"));
        }
        let revision = match value.get("rv").and_then(Value::as_i64) {
            Some(-1) => None,
            Some(revision) if revision > 0 => u64::try_from(revision).ok(),
            _ => return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
        };
        Ok(Self { revision, after })
    }
}

/// Reads a `resourceVersion`: `None` when unset.
pub fn parse_revision(text: &str) -> Result<Option<Revision>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ApiError::bad_request(format!(
            "Invalid value: {text:?}: resourceVersion must be a decimal number that the server gave out"
        ))
    })
}

/// Compiles the selectors of a request for `kind`.
pub fn filter(kind: &Kind, labels: &str, fields: &str) -> Result<Filter, ApiError> {
    let labels = LabelSelector::parse(labels).map_err(|e| ApiError::bad_request(e.0))?;
    let fields = FieldSelector::parse(fields).map_err(|e| ApiError::bad_request(e.0))?;
    let selectable = kind.custom.as_ref().map(|c| c.selectable_fields.as_slice()).unwrap_or_default();
    let custom: Vec<FieldDef> = selectable.iter().map(|path| FieldDef::custom(path, FieldForm::Text)).collect();
    Filter::new(&kind.group, &kind.plural, labels, &fields, &custom).map_err(|e| ApiError::bad_request(e.0))
}

impl Registry {
    /// Lists `kind` in `namespace` (empty for all).
    pub async fn list(
        &self,
        kind: &Kind,
        namespace: &str,
        filter: &Filter,
        options: &ListOptions,
    ) -> Result<Listed, ApiError> {
        let prefix = keys::prefix(kind, namespace);
        let asked = parse_revision(&options.resource_version)?;
        let place = match options.token.as_str() {
            "" => None,
            token => {
                if asked.is_some_and(|r| r != 0) {
                    return Err(ApiError::bad_request(
                        "specifying resource version is not allowed when using continue".to_owned(),
                    ));
                }
                Some(Place::decode(token)?)
            }
        };
        let mut at = match (&place, asked) {
            (Some(place), _) => place.revision.map_or(At::Latest, At::Exact),
            (None, None) => At::Latest,
            (None, Some(0)) => At::Cached,
            (None, Some(revision)) => match options.version_match {
                Some(VersionMatch::Exact) => At::Exact(revision),
                Some(VersionMatch::NotOlderThan) => At::NotOlder(revision),
                None if options.limit > 0 => At::Exact(revision),
                None => At::NotOlder(revision),
            },
        };
        if let Some(name) = filter.exact_name()
            && options.token.is_empty()
            && (!kind.namespaced || !namespace.is_empty())
            && !matches!(at, At::Exact(_))
        {
            return self.list_one(kind, namespace, name, filter, at).await;
        }
        let mut after = place.as_ref().map(|p| format!("{prefix}{}", p.after));
        let mut out = Listed { entries: vec![], revision: 0, token: String::new(), remaining: None };
        loop {
            let want = if options.limit == 0 { 0 } else { (options.limit - out.entries.len()).max(1) };
            let page = self.store.list(&prefix, at, after.as_deref(), want).await.map_err(|e| match (e, &place) {
                (StoreError::Compacted { .. }, Some(place)) => expired_token(place),
                (e, _) => store_error(e),
            })?;
            if after.is_none() {
                self.sizes.note(&prefix, page.entries.len() as u64 + page.remaining_count);
            }
            out.revision = page.revision;
            at = At::Exact(page.revision);
            let last = page.entries.last().map(|entry| entry.key.to_string());
            let entries = self.all_in_version(kind, page.entries).await?;
            if filter.is_everything() {
                out.entries.extend(entries);
            } else {
                for entry in entries {
                    if filter.matches_bytes(&self.plain(&entry)?) {
                        out.entries.push(entry);
                    }
                }
            }
            let (true, Some(last)) = (page.more, last) else { break };
            if options.limit > 0 && out.entries.len() >= options.limit {
                let place = Place { revision: Some(page.revision), after: last[prefix.len()..].to_owned() };
                out.token = place.encode();
                out.remaining = filter.is_everything().then_some(page.remaining_count);
                break;
            }
            after = Some(last);
        }
        Ok(out)
    }

    /// A list narrowed to one name costs one look-up.
    async fn list_one(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        filter: &Filter,
        at: At,
    ) -> Result<Listed, ApiError> {
        let found = self.store.get(&keys::object(kind, namespace, name), at).await.map_err(store_error)?;
        let mut entries = vec![];
        if let Some(entry) = found.entry
            && let entry = self.in_version(kind, entry).await?
            && filter.matches_bytes(&self.plain(&entry)?)
        {
            entries.push(entry);
        }
        Ok(Listed { entries, revision: found.revision, token: String::new(), remaining: None })
    }
}

/// The state that a token belongs to is forgotten: 410, with a token that goes on at the newest state instead.
fn expired_token(place: &Place) -> ApiError {
    let mut error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
         Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
         deleted between the time the first chunk was returned and now may show up in the list.",
    );
    error.continue_token = Some(Place { revision: None, after: place.after.clone() }.encode());
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_journey() {
        for place in
            [Place { revision: Some(7), after: "ns/name".into() }, Place { revision: None, after: "name".into() }]
        {
            assert_eq!(Place::decode(&place.encode()).unwrap(), place);
        }
    }

    #[test]
    fn bad_tokens_are_bad_requests() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for token in [
            "%%%".to_owned(),
            encode("no json"),
            encode(r#"{"v":"other","rv":1,"start":"a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../x"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":-7,"start":"a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":"x","start":"a"}"#),
            "A".repeat(MAX_TOKEN + 1),
        ] {
            assert_eq!(Place::decode(&token).unwrap_err().code, 400, "{token:.40}");
        }
    }
}

//! The options of requests, from the query string and from `DeleteOptions` bodies.

use crate::request_info::{is_true, query_pairs};
use caravel_api::status::ApiError;
use serde_json::Value;

/// How unknown and duplicate fields are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped with a `Warning` header.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// Options of create, update, patch and apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Everything is checked, nothing stored.
    pub dry_run: bool,
    /// Who writes, for managed fields; empty when not said.
    pub field_manager: String,
    /// How unknown fields are treated.
    pub field_validation: FieldValidation,
    /// Apply takes fields from other managers.
    pub force: bool,
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// Exactly at the revision.
    Exact,
    /// At the revision or later.
    NotOlderThan,
}

/// Options of list and watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Label selector.
    pub labels: String,
    /// Field selector.
    pub fields: String,
    /// `resourceVersion` as sent; empty when unset.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub version_match: Option<VersionMatch>,
    /// Page size; 0 for all.
    pub limit: usize,
    /// Continue token.
    pub token: String,
    /// Seconds after which a watch ends.
    pub timeout_seconds: Option<u64>,
    /// The client understands bookmarks.
    pub bookmarks: bool,
    /// The watch begins with the present objects.
    pub initial_events: Option<bool>,
}

/// What happens to an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They lose their owner and stay.
    Orphan,
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// Options of delete and deletecollection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// Seconds that the object gets to end.
    pub grace: Option<i64>,
    /// What happens to dependents.
    pub propagation: Option<Propagation>,
    /// The object must have this uid.
    pub uid: Option<String>,
    /// The object must be at this revision.
    pub resource_version: Option<String>,
}

fn dry_run(values: &[String]) -> Result<bool, ApiError> {
    let mut dry = false;
    for value in values {
        match value.as_str() {
            "" => {}
            "All" => dry = true,
            other => {
                return Err(ApiError::new(
                    422,
                    "Invalid",
                    format!(" \"\" is invalid: dryRun: Unsupported value: {other:?}: supported values: \"All\""),
                )
                .with_cause(
                    "FieldValueNotSupported",
                    format!("Unsupported value: {other:?}: supported values: \"All\""),
                    "dryRun",
                ));
            }
        }
    }
    Ok(dry)
}

fn invalid(parameter: &str, value: &str, wanted: &str) -> ApiError {
    ApiError::bad_request(format!("the parameter {parameter}={value:?} is invalid: {wanted}"))
}

impl WriteOptions {
    /// From a query string.
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let mut out = Self::default();
        let mut dry = vec![];
        for (key, value) in query_pairs(query) {
            match key.as_str() {
                "dryRun" => dry.push(value),
                "fieldManager" => {
                    if value.chars().count() > 128 {
                        return Err(invalid("fieldManager", &value, "it must be no longer than 128 characters"));
                    }
                    if value.chars().any(char::is_control) {
                        return Err(invalid("fieldManager", &value, "it must consist of printable characters"));
                    }
                    out.field_manager = value;
                }
                "fieldValidation" => {
                    out.field_validation = match value.as_str() {
                        "" | "Warn" => FieldValidation::Warn,
                        "Ignore" => FieldValidation::Ignore,
                        "Strict" => FieldValidation::Strict,
                        _ => return Err(invalid("fieldValidation", &value, "supported values: Ignore, Warn, Strict")),
                    }
                }
                "force" => out.force = is_true(&value),
                _ => {}
            }
        }
        out.dry_run = dry_run(&dry)?;
        Ok(out)
    }
}

impl ListOptions {
    /// From a query string; `watch` says for which of the two verbs, whose rules differ.
    pub fn parse(query: &str, watch: bool) -> Result<Self, ApiError> {
        let mut out = Self::default();
        for (key, value) in query_pairs(query) {
            match key.as_str() {
                "labelSelector" => out.labels = value,
                "fieldSelector" => out.fields = value,
                "resourceVersion" => out.resource_version = value,
                "resourceVersionMatch" => {
                    out.version_match = match value.as_str() {
                        "" => None,
                        "Exact" => Some(VersionMatch::Exact),
                        "NotOlderThan" => Some(VersionMatch::NotOlderThan),
                        _ => {
                            return Err(invalid(
                                "resourceVersionMatch",
                                &value,
                                "supported values: \"Exact\", \"NotOlderThan\", \"\"",
                            ));
                        }
                    }
                }
                "limit" => {
                    let limit: i64 = number(&key, &value)?;
                    out.limit = usize::try_from(limit).unwrap_or(0);
                }
                "continue" => out.token = value,
                "timeoutSeconds" => out.timeout_seconds = u64::try_from(number(&key, &value)?).ok(),
                "allowWatchBookmarks" => out.bookmarks = is_true(&value),
                "sendInitialEvents" => out.initial_events = Some(is_true(&value)),
                _ => {}
            }
        }
        out.check(watch)?;
        Ok(out)
    }

    /// The rules for combinations (KEP-2523, KEP-3157).
    fn check(&self, watch: bool) -> Result<(), ApiError> {
        let refuse = |text: &str| Err(ApiError::bad_request(text.to_owned()));
        if watch {
            if self.initial_events.is_some() {
                if self.version_match != Some(VersionMatch::NotOlderThan) {
                    return refuse("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
                }
                return Ok(());
            }
            if self.version_match.is_some() {
                return refuse("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
            return Ok(());
        }
        if self.initial_events.is_some() {
            return refuse("sendInitialEvents is forbidden for list");
        }
        let Some(rule) = self.version_match else { return Ok(()) };
        if self.resource_version.is_empty() {
            return refuse("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !self.token.is_empty() {
            return refuse("resourceVersionMatch is forbidden when continue is provided");
        }
        if rule == VersionMatch::Exact && self.resource_version == "0" {
            return refuse("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        Ok(())
    }
}

fn number(key: &str, value: &str) -> Result<i64, ApiError> {
    if value.is_empty() {
        return Ok(0);
    }
    value.parse().map_err(|_| invalid(key, value, "it must be a whole number"))
}

impl DeleteOptions {
    /// From the query and the body (a `DeleteOptions` object, or empty).
    pub fn parse(query: &str, body: Option<&Value>) -> Result<Self, ApiError> {
        let mut out = Self::default();
        let (mut dry, mut orphan, mut policy) = (vec![], None, None);
        for (key, value) in query_pairs(query) {
            match key.as_str() {
                "dryRun" => dry.push(value),
                "gracePeriodSeconds" => out.grace = Some(number(&key, &value)?),
                "propagationPolicy" => policy = Some(value),
                "orphanDependents" => orphan = Some(is_true(&value)),
                _ => {}
            }
        }
        if let Some(body) = body {
            let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            if let Some(all) = body.get("dryRun").and_then(Value::as_array) {
                dry = all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
            }
            if let Some(grace) = body.get("gracePeriodSeconds").filter(|v| !v.is_null()) {
                let wrong = || ApiError::bad_request("gracePeriodSeconds must be a whole number of seconds".to_owned());
                out.grace = Some(grace.as_i64().ok_or_else(wrong)?);
            }
            policy = text("/propagationPolicy").or(policy);
            orphan = body.get("orphanDependents").and_then(Value::as_bool).or(orphan);
            out.uid = text("/preconditions/uid");
            out.resource_version = text("/preconditions/resourceVersion");
        }
        out.dry_run = dry_run(&dry)?;
        if orphan.is_some() && policy.is_some() {
            return Err(ApiError::new(
                422,
                "Invalid",
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        out.propagation = match policy.as_deref() {
            None | Some("") => orphan.map(|o| if o { Propagation::Orphan } else { Propagation::Background }),
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                return Err(ApiError::new(
                    422,
                    "Invalid",
                    format!(
                        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                    ),
                ));
            }
        };
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn combinations_of_list_options() {
        for (query, watch, good) in [
            ("", false, true),
            ("limit=5&continue=x", false, true),
            ("limit=x", false, false),
            ("resourceVersionMatch=Exact", false, false),
            ("resourceVersionMatch=Exact&resourceVersion=5", false, true),
            ("resourceVersionMatch=Exact&resourceVersion=0", false, false),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=0", false, true),
            ("resourceVersionMatch=Sometimes&resourceVersion=5", false, false),
            ("sendInitialEvents=true", false, false),
            ("sendInitialEvents=true", true, false),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, true),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=5", true, false),
        ] {
            assert_eq!(ListOptions::parse(query, watch).is_ok(), good, "{query} watch={watch}");
        }
    }

    #[test]
    fn the_body_of_a_delete_stands_over_its_query() {
        let body = json!({"propagationPolicy": "Foreground", "gracePeriodSeconds": 3, "preconditions": {"uid": "u"}});
        let options = DeleteOptions::parse("propagationPolicy=Orphan&gracePeriodSeconds=9", Some(&body)).unwrap();
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        assert_eq!((options.grace, options.uid.as_deref()), (Some(3), Some("u")));
        assert!(DeleteOptions::parse("propagationPolicy=Nothing", None).is_err());
        assert!(DeleteOptions::parse("propagationPolicy=Orphan&orphanDependents=true", None).is_err());
        assert!(DeleteOptions::parse("dryRun=Some", None).is_err());
        assert!(DeleteOptions::parse("dryRun=All", None).unwrap().dry_run);
    }
}

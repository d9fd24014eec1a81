//! Custom resources between their versions, and objects that were stored under an older definition.
//!
//! What is stored is in the version that was the storage version then. Whoever reads asks for another one, or for the same
//! under a schema that has changed since: [`Registry::in_version`] gives the entry as if it had been stored so. Without a
//! webhook a version is another `apiVersion`; with one the webhook is asked (`apiextensions.k8s.io/v1` ConversionReview),
//! many objects at a time.

use super::{Registry, codec, keys};
use crate::handlers::fresh_uid;
use crate::outbound::Extension;
use caravel_api::decode::{self, Target, Unknown};
use caravel_api::kinds::{Gvk, Kind, convert, custom::Custom};
use caravel_api::meta;
use caravel_api::status::ApiError;
use caravel_store::{Entry, Event, splice_revision};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long one call of a conversion webhook may take (upstream's constant).
const DEADLINE: Duration = Duration::from_secs(30);
/// Objects that are converted in one call.
const BATCH: usize = 100;
/// Or bytes of them, so that the answer keeps within its limit.
const BATCH_BYTES: usize = 1 << 20;

/// Conversion webhooks by definition, each with what it was made from.
#[derive(Default)]
pub(super) struct Converters(Mutex<HashMap<String, Converter>>);

type Converter = (Arc<Value>, Arc<Extension>);

impl Converters {
    fn of(&self, custom: &Custom, webhook: &Arc<Value>) -> Result<Arc<Extension>, String> {
        let mut all = self.0.lock();
        if let Some((source, extension)) = all.get(&custom.definition)
            && *source == *webhook
        {
            return Ok(extension.clone());
        }
        let config = webhook.get("clientConfig").unwrap_or(&Value::Null);
        let extension = Arc::new(Extension::from_client_config(config)?);
        all.insert(custom.definition.clone(), (webhook.clone(), extension.clone()));
        Ok(extension)
    }

    /// Forgets the webhook of a definition that is gone.
    fn forget(&self, definition: &str) {
        self.0.lock().remove(definition);
    }
}

impl Registry {
    /// The object in another version of its kind.
    pub async fn convert(&self, mut value: Value, from: &Kind, to: &Kind) -> Result<Value, ApiError> {
        if from.group == to.group && from.version == to.version {
            return Ok(value);
        }
        let Some(custom) = &to.custom else {
            convert::convert(&mut value, from, to);
            return Ok(value);
        };
        let converted = self.convert_custom(custom, vec![value], to).await?;
        converted.into_iter().next().ok_or_else(|| ApiError::internal("a conversion gave nothing"))
    }

    /// The object in the version in which it is stored. For built-in kinds [`Registry::encode`] does the rest.
    pub(super) async fn stored_form<'a>(&self, kind: &Kind, object: &'a Value) -> Result<Cow<'a, Value>, ApiError> {
        if kind.custom.is_none() || kind.is_stored_form() {
            return Ok(Cow::Borrowed(object));
        }
        let stored = self.kinds().storage_row(kind).cloned();
        let stored = match stored {
            Some(stored) => stored,
            // The storage version need not be served.
            None => Arc::new(Kind { version: kind.storage_version.clone(), ..kind.clone() }),
        };
        self.convert(object.clone(), kind, &stored).await.map(Cow::Owned)
    }

    /// The entry as if it had been stored in `kind`'s version under today's schema.
    pub async fn in_version(&self, kind: &Kind, entry: Arc<Entry>) -> Result<Arc<Entry>, ApiError> {
        if !self.must_change(kind, &entry) {
            return Ok(entry);
        }
        let changed = self.all_in_version(kind, vec![entry]).await?;
        changed.into_iter().next().ok_or_else(|| ApiError::internal("a conversion gave nothing"))
    }

    /// [`Registry::in_version`] of many.
    pub async fn all_in_version(&self, kind: &Kind, mut entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, ApiError> {
        let Some(custom) = &kind.custom else { return Ok(entries) };
        let places: Vec<usize> = (0..entries.len()).filter(|at| self.must_change(kind, &entries[*at])).collect();
        let mut rest = &places[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |at: &&usize| {
                bytes += entries[**at].value.len();
                bytes <= BATCH_BYTES
            };
            let many = rest.iter().take(BATCH).take_while(fits).count().max(1);
            let (batch, after) = rest.split_at(many);
            rest = after;
            let objects = batch.iter().map(|at| self.as_stored(kind, &entries[*at])).collect::<Result<_, _>>()?;
            let converted = self.convert_custom(custom, objects, kind).await?;
            for (at, mut object) in batch.iter().zip(converted) {
                shape(kind, &mut object);
                entries[*at] = Arc::new(rewritten(&entries[*at], &object)?);
            }
        }
        Ok(entries)
    }

    /// The event as a watcher of `kind` sees it; `None` when it is as stored.
    pub async fn event_in_version(&self, kind: &Kind, event: &Event) -> Result<Option<Event>, ApiError> {
        let previous = event.prev.as_ref().is_some_and(|entry| self.must_change(kind, entry));
        if !previous && !self.must_change(kind, &event.entry) {
            return Ok(None);
        }
        let entry = self.in_version(kind, event.entry.clone()).await?;
        let prev = match &event.prev {
            Some(entry) => Some(self.in_version(kind, entry.clone()).await?),
            None => None,
        };
        let slot = caravel_store::Slot::default();
        Ok(Some(Event { revision: event.revision, kind: event.kind, entry, prev, slot }))
    }

    fn must_change(&self, kind: &Kind, entry: &Entry) -> bool {
        let Some(custom) = &kind.custom else { return false };
        custom.reshape || !codec::is_version(&entry.value, &kind.api_version())
    }

    /// Whether an object is stored otherwise than it would be today: in a version that is not the storage version any more, or
    /// not sealed with the newest key. A write that changes nothing is done all the same then: so storage is migrated. It is
    /// in today's form afterwards, so whoever writes the same again and again writes once.
    pub(super) fn is_stale(&self, kind: &Kind, raw: &Entry) -> bool {
        match &kind.custom {
            Some(_) => !codec::is_version(&raw.value, &kind.storage_api_version()),
            None => keys::may_be_sealed(kind) && !self.is_sealed_newly(&raw.value),
        }
    }

    /// The stored object with the defaults that its stored version has today.
    fn as_stored(&self, kind: &Kind, entry: &Entry) -> Result<Value, ApiError> {
        let mut object: Value = serde_json::from_slice(&entry.value)
            .map_err(|e| ApiError::internal(format!("the stored object at {:?} is not JSON: {e}", entry.key)))?;
        let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let gvk = Gvk::from_object(api_version, &kind.kind);
        if gvk.version != kind.version
            && let Some(row) = self.kinds().kind(&gvk.group, &gvk.version, &gvk.kind)
        {
            caravel_api::defaults::apply(row, &mut object);
        }
        Ok(object)
    }

    async fn convert_custom(&self, custom: &Custom, objects: Vec<Value>, to: &Kind) -> Result<Vec<Value>, ApiError> {
        let wanted = to.api_version();
        let differs = |object: &Value| object.get("apiVersion").and_then(Value::as_str) != Some(&wanted);
        let Some(webhook) = &custom.conversion else {
            let mut objects = objects;
            for object in &mut objects {
                object["apiVersion"] = json!(wanted);
            }
            return Ok(objects);
        };
        let (odd, _): (Vec<usize>, Vec<usize>) = (0..objects.len()).partition(|at| differs(&objects[*at]));
        if odd.is_empty() {
            return Ok(objects);
        }
        let failed = |why: String| {
            let gvk = Gvk::from_object(&wanted, &to.kind);
            ApiError::internal(format!("conversion webhook for {gvk} failed: {why}"))
        };
        let extension = self.converters.of(custom, webhook).map_err(failed)?;
        let asked: Vec<&Value> = odd.iter().map(|at| &objects[*at]).collect();
        let versions = webhook.get("conversionReviewVersions").and_then(Value::as_array).into_iter().flatten();
        let version = versions.filter_map(Value::as_str).find(|v| matches!(*v, "v1" | "v1beta1")).unwrap_or("v1");
        let uid = fresh_uid();
        let review = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": asked},
        });
        let answer = extension.post(self, &review, DEADLINE).await.map_err(failed)?;
        let converted = converted(&answer, version, &uid, &asked, &wanted).map_err(failed)?;
        let mut objects = objects;
        for (at, object) in odd.into_iter().zip(converted) {
            objects[at] = object;
        }
        Ok(objects)
    }

    /// Forgets the conversion webhook of a definition that is gone.
    pub fn forget_converter(&self, definition: &str) {
        self.converters.forget(definition);
    }
}

/// Prunes what today's schema does not know, and fills in its defaults.
fn shape(kind: &Kind, object: &mut Value) {
    let read = decode::Options { unknown: Unknown::Ignore, max_bytes: usize::MAX, fill: false };
    match decode::value(&Target::of(kind), object.clone(), &read) {
        Ok(decoded) => *object = decoded.value,
        // Its metadata is odd; it is shown as it is rather than not at all.
        Err(error) => tracing::debug!(%error, kind = %kind.kind, "a stored object does not fit its kind"),
    }
    caravel_api::defaults::apply(kind, object);
}

fn rewritten(entry: &Entry, object: &Value) -> Result<Entry, ApiError> {
    let encoded = codec::encode(object).map_err(ApiError::internal)?;
    let value = match entry.revision {
        // Only imagined, by a dry run: it has no revision.
        0 => encoded.bytes.into(),
        revision => splice_revision(&encoded.bytes, encoded.revision_at, revision),
    };
    Ok(Entry {
        key: entry.key.clone(),
        value,
        revision: entry.revision,
        revision_at: u32::try_from(encoded.revision_at).unwrap_or(u32::MAX),
        expires: entry.expires,
        slot: caravel_store::Slot::default(),
    })
}

/// The objects of an answer, each checked against what was asked.
fn converted(review: &Value, version: &str, uid: &str, asked: &[&Value], wanted: &str) -> Result<Vec<Value>, String> {
    let text =
        |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, api_version) = (text(review, "/kind"), text(review, "/apiVersion"));
    if kind != "ConversionReview" || api_version != format!("apiextensions.k8s.io/{version}") {
        return Err(format!(
            "expected a response of apiextensions.k8s.io/{version}, Kind=ConversionReview, got {api_version}, Kind={kind}"
        ));
    }
    if text(review, "/response/uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(review, "/response/uid")));
    }
    if text(review, "/response/result/status") != "Success" {
        let message = text(review, "/response/result/message");
        return Err(if message.is_empty() { "response.result.status was not 'Success'".to_owned() } else { message });
    }
    let objects = review.pointer("/response/convertedObjects").and_then(Value::as_array).cloned().unwrap_or_default();
    if objects.len() != asked.len() {
        return Err(format!("webhook returned {} objects, expected {}", objects.len(), asked.len()));
    }
    let checked = objects.into_iter().zip(asked).enumerate();
    checked
        .map(|(at, (object, original))| restored(object, original, wanted).map_err(|why| at_index(at, &why)))
        .collect()
}

fn at_index(at: usize, why: &str) -> String {
    format!("invalid converted object at index {at}: {why}")
}

/// A webhook may change labels and annotations, and nothing else of metadata.
fn restored(mut object: Value, original: &Value, wanted: &str) -> Result<Value, String> {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if text(&object, "apiVersion") != wanted {
        return Err(format!("apiVersion must be {wanted}, is {:?}", text(&object, "apiVersion")));
    }
    if text(&object, "kind") != text(original, "kind") {
        return Err(format!("kind must be {}, is {:?}", text(original, "kind"), text(&object, "kind")));
    }
    let Some(made) = object.get("metadata").and_then(Value::as_object) else {
        return Err("missing metadata in converted object".to_owned());
    };
    for (field, was) in
        [("name", meta::name(original)), ("namespace", meta::namespace(original)), ("uid", meta::uid(original))]
    {
        let is = made.get(field).and_then(Value::as_str).unwrap_or_default();
        if is != was {
            return Err(format!("must have the same {field}: {was:?} became {is:?}"));
        }
    }
    let mut metadata: Map<String, Value> =
        original.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match made.get(field) {
            Some(value) if value.is_object() => {
                metadata.insert(field.to_owned(), value.clone());
            }
            Some(Value::Null) | None => {
                metadata.remove(field);
            }
            Some(_) => return Err(format!("metadata.{field} must be an object of texts")),
        }
    }
    object["metadata"] = Value::Object(metadata);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_changes_no_identity() {
        let original =
            json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "uid": "u", "labels": {"a": "b"}}});
        let made = |metadata: Value| json!({"apiVersion": "g/v2", "kind": "K", "metadata": metadata, "x": 1});
        let good = restored(
            made(json!({"name": "n", "uid": "u", "labels": {"c": "d"}, "finalizers": ["no"]})),
            &original,
            "g/v2",
        )
        .unwrap();
        assert_eq!(good["metadata"], json!({"name": "n", "uid": "u", "labels": {"c": "d"}}));
        assert!(restored(made(json!({"name": "other", "uid": "u"})), &original, "g/v2").is_err());
        assert!(restored(made(json!({"name": "n", "uid": "u"})), &original, "g/v3").is_err());
        assert!(restored(json!({"apiVersion": "g/v2", "kind": "K"}), &original, "g/v2").is_err());
    }

    #[test]
    fn answers_are_checked() {
        let original = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}});
        let answer = |result: Value, objects: Value| {
            json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
                "response": {"uid": "1", "result": result, "convertedObjects": objects}})
        };
        let good = json!([{"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "n"}}]);
        let check = |review: &Value| converted(review, "v1", "1", &[&original], "g/v2");
        assert!(check(&answer(json!({"status": "Success"}), good.clone())).is_ok());
        assert_eq!(check(&answer(json!({"status": "Failure", "message": "no"}), good)).unwrap_err(), "no");
        assert!(check(&answer(json!({"status": "Success"}), json!([]))).unwrap_err().contains("0 objects, expected 1"));
        assert!(check(&json!({"kind": "Status"})).is_err());
    }
}

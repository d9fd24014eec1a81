//! Requests about resources: from the path and the verb to the registry, and back.

use super::Inbound;
use crate::http::body::{Body, read_limited};
use crate::http::negotiate::{Accept, MediaType, body_media, content_type};
use crate::http::respond;
use crate::registry::create::Stored;
use crate::registry::delete::Deleted;
use crate::registry::list::filter;
use crate::registry::options::{DeleteOptions, FieldValidation, ListOptions, WriteOptions};
use crate::registry::update::{Change, Update, validation};
use crate::registry::{list, scale};
use crate::request_info::query_value;
use crate::server::Server;
use caravel_api::decode::{self, Format, Target};
use caravel_api::field::{FieldError, FieldPath};
use caravel_api::kinds::{Gvk, Kind, Verbs};
use caravel_api::protobuf;
use caravel_api::status::{ApiError, success};
use caravel_api::{meta, names};
use caravel_store::At;
use http::{Method, Response, StatusCode};
use serde_json::Value;
use std::sync::Arc;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_YAML: &str = "application/apply-patch+yaml";

impl Server {
    /// Answers a request about a resource.
    pub(super) async fn resource(self: Arc<Self>, inbound: Inbound) -> Result<Response<Body>, ApiError> {
        let info = &inbound.info;
        let kinds = self.registry.kinds();
        let kind = kinds.resource(&info.group, &info.version, &info.resource).cloned();
        let kind = kind.ok_or_else(ApiError::unknown_path)?;
        drop(kinds);
        check_scope(&inbound, &kind)?;
        if let Some(text) = &kind.deprecation {
            inbound.call.warn(text.to_string());
        }
        if !info.subresource.is_empty() {
            return self.subresource(inbound, kind).await;
        }
        if info.verb == "create" && !info.path_name().is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        if let Some(review) = self.review(&inbound, &kind) {
            return review.answer(inbound).await;
        }
        let verb = Verbs::named(&info.verb);
        if !kind.verbs.contains(verb) || verb == Verbs::default() {
            return Err(ApiError::method_not_supported(&kind.group, &kind.plural, &info.verb));
        }
        if kind.group == crate::usage::GROUP && !kind.is_custom() {
            return self.usage(&inbound, &kind).await;
        }
        match info.verb.as_str() {
            "get" => self.get(&inbound, &kind).await,
            "list" | "watch" => self.list_or_watch(&inbound, &kind).await,
            "create" => self.create(inbound, &kind).await,
            "update" => self.replace(inbound, &kind).await,
            "patch" => self.patch(inbound, &kind).await,
            "delete" => self.remove(inbound, &kind).await,
            "deletecollection" => self.remove_collection(inbound, &kind).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    async fn get(&self, inbound: &Inbound, kind: &Arc<Kind>) -> Result<Response<Body>, ApiError> {
        let accept = accept(inbound, kind, false)?;
        let asked = query_value(&inbound.parts.uri, "resourceVersion").unwrap_or_default();
        let at = match list::parse_revision(&asked)? {
            None => At::Latest,
            Some(0) => At::Cached,
            Some(revision) => At::NotOlder(revision),
        };
        let entry = self.registry.must(kind, &inbound.info.namespace, inbound.info.path_name(), at).await?;
        self.present(inbound, kind, &entry, accept, StatusCode::OK)
    }

    async fn list_or_watch(self: &Arc<Self>, inbound: &Inbound, kind: &Arc<Kind>) -> Result<Response<Body>, ApiError> {
        let watch = inbound.info.verb == "watch";
        if kind.plural == "componentstatuses" {
            return Err(ApiError::unknown_path());
        }
        let mut options = ListOptions::parse(inbound.query(), watch)?;
        let by_path = inbound.info.path_name();
        if watch && !by_path.is_empty() {
            // The deprecated /api/v1/watch/…/NAME.
            options.fields = format!("metadata.name={by_path}");
        }
        let filter = filter(kind, &options.labels, &options.fields)?;
        if watch {
            return self.watch(inbound, kind, filter, &options).await;
        }
        let accept = accept(inbound, kind, true)?;
        let listed = self.registry.list(kind, &inbound.info.namespace, &filter, &options).await?;
        self.present_list(inbound, kind, &listed, accept)
    }

    async fn create(self: &Arc<Self>, inbound: Inbound, kind: &Arc<Kind>) -> Result<Response<Body>, ApiError> {
        let accept = accept(&inbound, kind, false)?;
        let options = WriteOptions::parse(inbound.query())?;
        let object = self.body_of(&inbound, &Target::of(kind), &options).await?;
        let stored = self.registry.create(&inbound.call, kind, &inbound.info.namespace, "", object, &options).await?;
        self.present(&inbound, kind, &stored.entry, accept, StatusCode::CREATED)
    }

    async fn replace(self: &Arc<Self>, inbound: Inbound, kind: &Arc<Kind>) -> Result<Response<Body>, ApiError> {
        let options = WriteOptions::parse(inbound.query())?;
        let target = self.door(&inbound, kind)?;
        let object = self.body_of(&inbound, &target, &options).await?;
        self.change(&inbound, kind, Change::Replace(object), &options).await
    }

    async fn patch(self: &Arc<Self>, inbound: Inbound, kind: &Arc<Kind>) -> Result<Response<Body>, ApiError> {
        let options = WriteOptions::parse(inbound.query())?;
        let media = content_type(&inbound.parts.headers);
        let format = if media == APPLY_YAML { Format::Yaml } else { Format::Json };
        let known = match media.as_str() {
            JSON_PATCH | MERGE_PATCH | APPLY_YAML => true,
            STRATEGIC_PATCH => !kind.is_custom(),
            _ => false,
        };
        if !known {
            let all = [JSON_PATCH, MERGE_PATCH, APPLY_YAML, STRATEGIC_PATCH];
            return Err(ApiError::unsupported_media_type(if kind.is_custom() { &all[..3] } else { &all }));
        }
        if options.force && media != APPLY_YAML {
            return Err(ApiError::new(
                422,
                "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
            )
            .with_cause(
                "FieldValueForbidden",
                "Forbidden: may not be specified for non-apply patch",
                "force",
            ));
        }
        let bytes = read_limited(inbound.take_body(), self.config.max_body).await?;
        let read = decode::untyped_noted(&bytes, format, self.config.max_body).map_err(|e| {
            let why = match e {
                decode::DecodeError::Syntax { why, .. } => why,
                other => other.to_string(),
            };
            let what = if media == APPLY_YAML { "YAML" } else { "patch" };
            ApiError::bad_request(format!("error decoding {what}: {why}"))
        })?;
        let (patch, notes) = read;
        let notes = if media == JSON_PATCH { vec![] } else { notes };
        duplicates(&inbound, &media, &bytes, &patch, notes, &options)?;
        if media != JSON_PATCH && !patch.is_object() {
            return Err(ApiError::bad_request(
                "error decoding patch: a patch of this kind must be an object".to_owned(),
            ));
        }
        if let Some(trail) = crate::audit::Trail::of(&inbound.parts) {
            trail.patched(&patch);
        }
        let change = match media.as_str() {
            JSON_PATCH => Change::JsonPatch(patch),
            MERGE_PATCH => Change::MergePatch(patch),
            APPLY_YAML => Change::Apply(patch),
            _ => Change::Strategic(patch),
        };
        self.change(&inbound, kind, change, &options).await
    }

    /// What is read and written at the subresource of a request: the object itself, or another kind.
    fn door(&self, inbound: &Inbound, kind: &Kind) -> Result<Target, ApiError> {
        if inbound.info.subresource.is_empty() {
            return Ok(Target::of(kind));
        }
        let subresource = kind.subresource(&inbound.info.subresource).ok_or_else(ApiError::unknown_path)?;
        if subresource.kind == kind.gvk() {
            return Ok(Target::of(kind));
        }
        target(&subresource.kind)
    }

    async fn change(
        self: &Arc<Self>,
        inbound: &Inbound,
        kind: &Arc<Kind>,
        change: Change,
        options: &WriteOptions,
    ) -> Result<Response<Body>, ApiError> {
        let accept = accept(inbound, kind, false)?;
        let name = inbound.info.path_name();
        if name.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        let subresource = inbound.info.subresource.as_str();
        let update = Update { kind, namespace: &inbound.info.namespace, name, subresource, change, options };
        let Stored { entry, created } = self.registry.update(&inbound.call, update).await?;
        let status = if created { StatusCode::CREATED } else { StatusCode::OK };
        if subresource == "scale" {
            let object = self.registry.parse(kind, &entry)?;
            return Ok(respond::value(status, &scale::of(kind, &object), accept.media));
        }
        self.present(inbound, kind, &entry, accept, status)
    }

    async fn remove(self: &Arc<Self>, inbound: Inbound, kind: &Arc<Kind>) -> Result<Response<Body>, ApiError> {
        let options = self.delete_options(&inbound).await?;
        let accept = accept(&inbound, kind, false)?;
        let name = inbound.info.path_name();
        let deleted = self.registry.delete(&inbound.call, kind, &inbound.info.namespace, name, &options).await?;
        match deleted {
            Deleted::Marked(entry) => self.present(&inbound, kind, &entry, accept, StatusCode::OK),
            // Some kinds answer with the object, as their documents say; most with a Status.
            Deleted::Gone(entry) if kind.deletes_to_object() => {
                self.present(&inbound, kind, &entry, accept, StatusCode::OK)
            }
            Deleted::Gone(entry) => {
                let object = self.registry.parse(kind, &entry)?;
                let status = success(&kind.group, &kind.plural, name, meta::uid(&object));
                Ok(respond::value(StatusCode::OK, &status, accept.media))
            }
        }
    }

    async fn remove_collection(
        self: &Arc<Self>,
        inbound: Inbound,
        kind: &Arc<Kind>,
    ) -> Result<Response<Body>, ApiError> {
        let options = self.delete_options(&inbound).await?;
        let accept = accept(&inbound, kind, true)?;
        let list = ListOptions::parse(inbound.query(), false)?;
        let filter = filter(kind, &list.labels, &list.fields)?;
        let listed = self
            .registry
            .delete_collection(&inbound.call, kind, &inbound.info.namespace, &filter, &list, &options)
            .await?;
        self.present_list(&inbound, kind, &listed, accept)
    }

    async fn delete_options(&self, inbound: &Inbound) -> Result<DeleteOptions, ApiError> {
        let bytes = read_limited(inbound.take_body(), self.config.max_body).await?;
        if bytes.is_empty() {
            return DeleteOptions::parse(inbound.query(), None);
        }
        let gvk = Gvk::new("", "v1", "DeleteOptions");
        let read = decode::Options { fill: false, max_bytes: self.config.max_body, ..decode::Options::default() };
        let decoded = read_body(inbound, &target(&gvk)?, &bytes, &read)?;
        DeleteOptions::parse(inbound.query(), Some(&decoded.value))
    }

    /// Reads and decodes the body of a request.
    pub(super) async fn body_of(
        &self,
        inbound: &Inbound,
        target: &Target,
        options: &WriteOptions,
    ) -> Result<Value, ApiError> {
        body_media(&inbound.parts.headers)?;
        let bytes = read_limited(inbound.take_body(), self.config.max_body).await?;
        let read = decode::Options { unknown: validation(options), max_bytes: self.config.max_body, fill: true };
        let decoded = read_body(inbound, target, &bytes, &read)?;
        decoded.warnings.into_iter().for_each(|w| inbound.call.warn(w));
        if let Some(trail) = crate::audit::Trail::of(&inbound.parts) {
            trail.sent(&decoded.value);
        }
        Ok(decoded.value)
    }

    async fn subresource(self: Arc<Self>, inbound: Inbound, kind: Arc<Kind>) -> Result<Response<Body>, ApiError> {
        let subresource = kind.subresource(&inbound.info.subresource).cloned().ok_or_else(ApiError::unknown_path)?;
        let long = matches!(&*subresource.name, "log" | "exec" | "attach" | "portforward" | "proxy");
        if long {
            return self.connect(inbound, kind).await;
        }
        let verb = Verbs::named(&inbound.info.verb);
        if !subresource.verbs.contains(verb) || verb == Verbs::default() {
            return Err(ApiError::method_not_supported(&kind.group, &kind.plural, &inbound.info.verb));
        }
        if verb == Verbs::CREATE {
            return self.create_subresource(inbound, kind, &subresource).await;
        }
        match inbound.parts.method {
            Method::GET | Method::HEAD => {
                let accept = accept(&inbound, &kind, false)?;
                let name = inbound.info.path_name();
                let entry = self.registry.must(&kind, &inbound.info.namespace, name, At::Latest).await?;
                if subresource.name == "scale" {
                    let object = self.registry.parse(&kind, &entry)?;
                    return Ok(respond::value(StatusCode::OK, &scale::of(&kind, &object), accept.media));
                }
                self.present(&inbound, &kind, &entry, accept, StatusCode::OK)
            }
            Method::PUT => self.replace(inbound, &kind).await,
            Method::PATCH => self.patch(inbound, &kind).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// Answers that the store does not take part in are still YAML when that was asked for.
    pub(super) fn media(inbound: &Inbound) -> MediaType {
        Accept::plain_media(&inbound.parts.headers)
    }
}

/// A patch that says something twice is refused, warned of, or taken, as the request wishes.
fn duplicates(
    inbound: &Inbound,
    media: &str,
    bytes: &[u8],
    patch: &Value,
    notes: Vec<String>,
    options: &WriteOptions,
) -> Result<(), ApiError> {
    if notes.is_empty() || options.field_validation == FieldValidation::Ignore {
        return Ok(());
    }
    if media == APPLY_YAML {
        let mut lines = decode::yaml_duplicates(&String::from_utf8_lossy(bytes));
        if lines.is_empty() {
            lines = notes;
        }
        if options.field_validation == FieldValidation::Strict {
            let all = lines.join("\n  ");
            let why =
                format!("error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {all}");
            return Err(ApiError::bad_request(why));
        }
        lines.into_iter().for_each(|line| inbound.call.warn(line));
        return Ok(());
    }
    if options.field_validation == FieldValidation::Strict {
        let why = format!("strict decoding error: {}", notes.join(", "));
        let error = FieldError::invalid(&FieldPath::root("patch"), patch.to_string(), why);
        return Err(ApiError::invalid("", "", "", &[error]));
    }
    notes.into_iter().for_each(|note| inbound.call.warn(note));
    Ok(())
}

/// What the client wants back of `kind`.
fn accept(inbound: &Inbound, kind: &Kind, list: bool) -> Result<Accept, ApiError> {
    Accept::choose(&inbound.parts.headers, list, !kind.is_custom())
}

/// Decodes a body, however it is written.
fn read_body(
    inbound: &Inbound,
    target: &Target,
    bytes: &[u8],
    read: &decode::Options,
) -> Result<decode::Decoded, ApiError> {
    let decoded = match body_media(&inbound.parts.headers)? {
        MediaType::Json => decode::body(target, bytes, Format::Json, read)?,
        MediaType::Yaml => decode::body(target, bytes, Format::Yaml, read)?,
        MediaType::Protobuf => {
            let value = protobuf::decode(&target.schema, bytes).map_err(|e| ApiError::bad_request(e.to_string()))?;
            decode::value(target, value, read)?
        }
    };
    Ok(decoded)
}

/// The decoding target of a kind that is no resource.
pub(super) fn target(gvk: &Gvk) -> Result<Target, ApiError> {
    Target::of_gvk(gvk).ok_or_else(|| ApiError::internal(format!("the kind {gvk} has no schema")))
}

/// The path must fit the kind's scope, and its parts must be names.
fn check_scope(inbound: &Inbound, kind: &Kind) -> Result<(), ApiError> {
    let info = &inbound.info;
    if !kind.namespaced && !info.namespace.is_empty() && kind.plural != "namespaces" {
        return Err(ApiError::unknown_path());
    }
    let one = !info.path_name().is_empty();
    if kind.namespaced && info.namespace.is_empty() && (one || info.verb == "create") && info.verb != "watch" {
        // Objects are reached in their namespace; only collections reach over all of them.
        return Err(match (one, &*kind.group) {
            (false, _) => ApiError::method_not_allowed(),
            _ => ApiError::unknown_path(),
        });
    }
    if info.parts.len() > 3 && !matches!(info.subresource.as_str(), "proxy") {
        return Err(ApiError::unknown_path());
    }
    for (what, text) in [("namespace", info.namespace.as_str()), ("name", info.path_name())] {
        if !text.is_empty() && !names::path_segment(text).is_empty() {
            return Err(ApiError::bad_request(format!(
                "the {what} {text:?} in the path is invalid: {}",
                names::path_segment(text).join(", ")
            )));
        }
    }
    Ok(())
}

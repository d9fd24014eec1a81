//! The parameters of a policy under a binding.

use super::compiled::{Binding, Policy};
use crate::admission::{Context, Request};
use crate::registry::{keys, store_error};
use caravel_api::kinds::split_api_version;
use caravel_api::selector::LabelSelector;
use caravel_store::At;
use serde_json::Value;

/// Most parameter objects that one binding may bring.
const MAX_PARAMS: usize = 1000;

/// The parameters, each of which is evaluated with; one `Null` when the policy has none, and nothing when the binding does
/// not apply for want of any.
///
/// # Errors
/// Why they cannot be had: the policy's failure policy decides what that means.
pub async fn find(
    policy: &Policy,
    binding: &Binding,
    request: &Request,
    context: &Context<'_>,
) -> Result<Vec<Value>, String> {
    let (Some((api_version, kind)), Some(wanted)) = (&policy.param_kind, &binding.params) else {
        return Ok(vec![Value::Null]);
    };
    let (group, version) = split_api_version(api_version);
    let kinds = context.registry.kinds();
    let Some(row) = kinds.kind(group, version, kind).cloned() else {
        return Err(format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"));
    };
    let namespace = match (row.namespaced, wanted.namespace.as_str()) {
        (false, "") => String::new(),
        (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
        (true, "") if !request.kind.namespaced => {
            let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(why.to_owned());
        }
        (true, "") => request.namespace.clone(),
        (true, said) => said.to_owned(),
    };
    let failed = |error: caravel_api::status::ApiError| error.message;
    let mut found = vec![];
    if wanted.name.is_empty() {
        let selector = LabelSelector::from_value(wanted.selector.as_ref()).map_err(|e| e.to_string())?;
        let prefix = keys::prefix(&row, &namespace);
        let page =
            context.registry.store.list(&prefix, At::Cached, None, 0).await.map_err(|e| failed(store_error(e)))?;
        for entry in &page.entries {
            let object = context.registry.parse(&row, entry).map_err(failed)?;
            if selector.matches_object(&object) && found.len() < MAX_PARAMS {
                found.push(object);
            }
        }
    } else if let Some(entry) =
        context.registry.entry(&row, &namespace, &wanted.name, At::Cached).await.map_err(failed)?
    {
        found.push(context.registry.parse(&row, &entry).map_err(failed)?);
    }
    if found.is_empty() && wanted.deny_missing {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}

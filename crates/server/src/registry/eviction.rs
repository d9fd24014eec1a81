//! `pods/eviction`: a deletion that respects PodDisruptionBudgets.

use super::delete::Deleted;
use super::options::{DeleteOptions, WriteOptions};
use super::update::{Change, Update};
use super::{Call, Registry};
use crate::clock::rfc3339_seconds;
use caravel_api::meta;
use caravel_api::selector::LabelSelector;
use caravel_api::status::ApiError;
use caravel_store::At;
use serde_json::{Value, json};
use std::sync::Arc;

/// More evictions than this may not be pending with one budget, lest its status grows without end.
const MAX_DISRUPTED: usize = 2000;

/// How often a budget that others changed meanwhile is read again.
const ATTEMPTS: usize = 20;

impl Registry {
    /// Evicts a Pod: 429 while its budget does not allow it.
    pub async fn evict(
        self: &Arc<Self>,
        call: &Call,
        namespace: &str,
        name: &str,
        eviction: &Value,
        query: &str,
        write: &WriteOptions,
    ) -> Result<(), ApiError> {
        let given = meta::name(eviction);
        if !given.is_empty() && given != name {
            return Err(ApiError::bad_request(format!(
                "name in URL ({name}) does not match name in Eviction object: {given}"
            )));
        }
        let mut options = DeleteOptions::parse(query, eviction.get("deleteOptions"))?;
        options.dry_run |= write.dry_run;
        let pods = self.row("", "pods")?;
        let entry = self.must(&pods, namespace, name, At::Latest).await?;
        let pod = self.parse(&pods, &entry)?;
        if needs_no_budget(&pod) {
            if options.resource_version.is_none() && !options.dry_run {
                // What made the budget unnecessary must still hold when the Pod goes.
                options.resource_version = Some(meta::resource_version(&pod).to_owned());
            }
            return self.delete(call, &pods, namespace, name, &options).await.map(gone);
        }
        let budgets: Vec<Value> = self
            .objects("policy", "poddisruptionbudgets", namespace)
            .await?
            .into_iter()
            .filter(|budget| covers(budget, &pod))
            .collect();
        if let [_, _, ..] = budgets[..] {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        if let Some(budget) = budgets.first() {
            let unready = !is_ready(&pod);
            if unready && may_evict_unready(budget) {
                options.resource_version.get_or_insert_with(|| meta::resource_version(&pod).to_owned());
            } else {
                self.take_from_budget(call, namespace, meta::name(budget), name, options.dry_run).await?;
            }
        }
        self.mark_disrupted(call, namespace, name, options.dry_run).await?;
        self.delete(call, &pods, namespace, name, &options).await.map(gone)
    }

    /// Uses up one disruption of the budget.
    async fn take_from_budget(
        self: &Arc<Self>,
        call: &Call,
        namespace: &str,
        budget: &str,
        pod: &str,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let kind = self.row("policy", "poddisruptionbudgets")?;
        let options = WriteOptions { dry_run, ..WriteOptions::default() };
        let now = rfc3339_seconds(self.clock.now());
        for _ in 0..ATTEMPTS {
            let (pod, now) = (pod.to_owned(), now.clone());
            let change = Change::With(Box::new(move |budget: &mut Value| take(budget, &pod, &now)));
            let update =
                Update { kind: &kind, namespace, name: budget, subresource: "status", change, options: &options };
            match self.update(call, update).await {
                Err(error) if error.reason == "Conflict" => {}
                other => return other.map(|_| ()),
            }
        }
        Err(ApiError::too_many_requests(format!("couldn't update PodDisruptionBudget {budget:?} due to conflicts"), 10))
    }

    /// Adds the condition that says why the Pod will end.
    async fn mark_disrupted(
        self: &Arc<Self>,
        call: &Call,
        namespace: &str,
        name: &str,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let kind = self.row("", "pods")?;
        let options = WriteOptions { dry_run, ..WriteOptions::default() };
        let now = rfc3339_seconds(self.clock.now());
        let change = Change::With(Box::new(move |pod: &mut Value| {
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastTransitionTime": now, "lastProbeTime": null,
            });
            let conditions = &mut pod["status"]["conditions"];
            match conditions.as_array_mut() {
                Some(all) => {
                    all.retain(|c| c.get("type").and_then(Value::as_str) != Some("DisruptionTarget"));
                    all.push(condition);
                }
                None => *conditions = json!([condition]),
            }
            Ok(())
        }));
        let update = Update { kind: &kind, namespace, name, subresource: "status", change, options: &options };
        self.update(call, update).await.map(|_| ())
    }
}

fn gone(_: Deleted) {}

fn needs_no_budget(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod.pointer("/metadata/deletionTimestamp").is_some()
}

fn is_ready(pod: &Value) -> bool {
    pod.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten().any(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("Ready")
            && condition.get("status").and_then(Value::as_str) == Some("True")
    })
}

fn covers(budget: &Value, pod: &Value) -> bool {
    LabelSelector::from_value(budget.pointer("/spec/selector")).is_ok_and(|selector| selector.matches_object(pod))
}

fn number(budget: &Value, field: &str) -> i64 {
    budget.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0)
}

/// Unready Pods may go when the policy always allows it, or while the healthy ones suffice (KEP-3017).
fn may_evict_unready(budget: &Value) -> bool {
    if budget.pointer("/spec/unhealthyPodEvictionPolicy").and_then(Value::as_str) == Some("AlwaysAllow") {
        return true;
    }
    number(budget, "desiredHealthy") > 0 && number(budget, "currentHealthy") >= number(budget, "desiredHealthy")
}

fn take(budget: &mut Value, pod: &str, now: &str) -> Result<(), ApiError> {
    let name = meta::name(budget).to_owned();
    // Clients wait by themselves for as long as a refusal asks for: only for what ends by itself.
    let refuse = |cause: String, seconds: u32| {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        Err(ApiError::too_many_requests(message.to_owned(), seconds).with_cause("DisruptionBudget", cause, ""))
    };
    if number(budget, "observedGeneration") < meta::generation(budget) {
        return refuse(format!("The disruption budget {name} is still being processed by the server."), 10);
    }
    let allowed = number(budget, "disruptionsAllowed");
    if allowed < 0 {
        return Err(ApiError::forbidden(
            "policy",
            "poddisruptionbudgets",
            &name,
            "pdb disruptions allowed is negative",
        ));
    }
    if budget.pointer("/status/disruptedPods").and_then(Value::as_object).is_some_and(|m| m.len() > MAX_DISRUPTED) {
        return Err(ApiError::forbidden(
            "policy",
            "poddisruptionbudgets",
            &name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let (desired, current) = (number(budget, "desiredHealthy"), number(budget, "currentHealthy"));
        let cause = format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently");
        return refuse(cause, 0);
    }
    budget["status"]["disruptionsAllowed"] = json!(allowed - 1);
    if !budget["status"]["disruptedPods"].is_object() {
        budget["status"]["disruptedPods"] = json!({});
    }
    budget["status"]["disruptedPods"][pod] = json!(now);
    if allowed == 1 {
        let generation = meta::generation(budget);
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": generation, "lastTransitionTime": now,
        });
        let conditions = &mut budget["status"]["conditions"];
        match conditions.as_array_mut() {
            Some(all) => {
                all.retain(|c| c.get("type").and_then(Value::as_str) != Some("DisruptionAllowed"));
                all.push(condition);
            }
            None => *conditions = json!([condition]),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up() {
        let mut budget = json!({"metadata": {"name": "b", "generation": 1}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 3}});
        take(&mut budget, "p", "now").unwrap();
        assert_eq!(budget["status"]["disruptionsAllowed"], 0);
        assert_eq!(budget["status"]["disruptedPods"]["p"], "now");
        let refusal = take(&mut budget, "q", "now").unwrap_err();
        assert_eq!(refusal.code, 429);
        assert_eq!(
            refusal.details.unwrap().causes[0].message,
            "The disruption budget b needs 2 healthy pods and has 3 currently"
        );
        budget["metadata"]["generation"] = json!(2);
        assert_eq!(take(&mut budget, "q", "now").unwrap_err().code, 429);
    }
}

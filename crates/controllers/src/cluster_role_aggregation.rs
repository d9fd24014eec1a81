//! Fills ClusterRoles that are defined as the union of others.

use std::sync::Arc;

use caravel_client::{Informer, Key, WorkQueue};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::PostParams;

use crate::common::*;
use crate::context::Context;

/// The rules that an aggregated role ought to have, if they are not those it has: the rules of all selected roles, each once,
/// in the order of the selectors and of the roles' names.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.clone().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = vec![];
    for selector in &selectors {
        let selector = Selector::new(Some(selector));
        let mut selected: Vec<_> =
            all.iter().filter(|r| selector.matches(labels(&***r)) && name(&***r) != name(role)).collect();
        selected.sort_by(|a, b| name(&***a).cmp(name(&***b)));
        for rule in selected.into_iter().flat_map(|r| r.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let roles: Informer<ClusterRole> = context.cluster.informer();
    let queue = WorkQueue::new();
    let (all, wake) = (roles.clone(), queue.clone());
    // Any role may be part of any aggregated one; there are few of these.
    roles.on_change(move |c| {
        let own = c.object();
        if own.aggregation_rule.is_some() {
            wake.add(Key::of(&**own));
        }
        for role in all.list() {
            let selectors = role.aggregation_rule.iter().flat_map(|a| a.cluster_role_selectors.iter().flatten());
            let mut matching = selectors.map(|s| Selector::new(Some(s)));
            let before = match c {
                caravel_client::Change::Updated { old, .. } => Some(old),
                _ => None,
            };
            if matching.any(|s| s.matches(labels(&**own)) || before.is_some_and(|o| s.matches(labels(&**o)))) {
                wake.add(Key::of(&*role));
            }
        }
    });
    roles.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let role = roles.get(&key);
        let rules = role.as_ref().and_then(|r| plan(r, &roles.list()));
        let api: Api<ClusterRole> = Api::all(client.clone());
        async move {
            if let (Some(role), Some(rules)) = (role, rules) {
                let changed = ClusterRole { rules: Some(rules), ..(*role).clone() };
                api.replace(&key.name, &PostParams::default(), &changed).await?;
            }
            Ok(None)
        }
    };
    context.work(queue, 2, reconcile).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::rbac::v1::AggregationRule;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    #[test]
    fn the_union_of_the_selected() {
        let rule = |verb: &str| PolicyRule { verbs: vec![verb.into()], ..Default::default() };
        let role = |n: &str, label: &str, verbs: &[&str]| {
            let mut r = ClusterRole { rules: Some(verbs.iter().map(|v| rule(v)).collect()), ..Default::default() };
            r.metadata.name = Some(n.into());
            r.metadata.labels = Some([(label.to_owned(), "true".to_owned())].into());
            Arc::new(r)
        };
        let mut admin = (*role("admin", "none", &[])).clone();
        let select = |l: &str| LabelSelector {
            match_labels: Some([(l.to_owned(), "true".to_owned())].into()),
            ..Default::default()
        };
        admin.aggregation_rule = Some(AggregationRule { cluster_role_selectors: Some(vec![select("to-admin")]) });
        let all = [
            role("b", "to-admin", &["get", "list"]),
            role("a", "to-admin", &["list", "watch"]),
            role("c", "other", &["delete"]),
        ];
        let rules = plan(&admin, &all).expect("differs");
        assert_eq!(rules, [rule("list"), rule("watch"), rule("get")]);
        admin.rules = Some(rules);
        assert_eq!(plan(&admin, &all), None);
        assert_eq!(plan(&all[0], &all), None, "others are left alone");
    }
}

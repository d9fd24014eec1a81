//! The horizontal pod autoscaler (autoscaling/v2).

mod limits;
mod metrics;
mod replicas;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use caravel_api::quantity::Quantity;
use caravel_api::selector::LabelSelector;
use caravel_client::{Informer, Key, Recorder, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::*;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use parking_lot::Mutex;

use crate::common::discovery::discover;
use crate::common::*;
use crate::context::{Context, record_on};
use limits::{History, limit};
use replicas::{Proposal, Sample, Tolerance, by_pods, by_share, by_total};

const WORKERS: usize = 5;
/// A pod younger than this may not be ready for reasons of its start (`--horizontal-pod-autoscaler-initial-readiness-delay` and cpu period).
const STARTING: i64 = 300;
const TOLERANCE: f64 = 0.1;

struct Controller {
    context: Context,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    recorder: Recorder,
    histories: Mutex<HashMap<Key, History>>,
}

/// Runs the controller. Metrics cannot be watched, so each autoscaler looks at them once a period; without autoscalers nothing happens.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        autoscalers: context.cluster.informer(),
        pods: context.pods(),
        recorder: context.cluster.recorder("horizontal-pod-autoscaler"),
        histories: Mutex::default(),
        context,
    };
    let queue = WorkQueue::new();
    let wake = queue.clone();
    c.autoscalers.on_change(move |change| {
        // The own status is no news: the period goes on.
        if let caravel_client::Change::Updated { old, new } = change
            && old.spec == new.spec
            && uid(&**old) == uid(&**new)
        {
            return;
        }
        wake.add(Key::of(&**change.object()));
    });
    c.autoscalers.synced().await;
    c.pods.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

/// What is found out about one autoscaler, for its status.
struct Round {
    status: HorizontalPodAutoscalerStatus,
    events: Vec<Event>,
    now: Timestamp,
}

impl Round {
    fn set(&mut self, type_: &str, status: bool, reason: &str, message: impl Into<String>) {
        let status = if status { "True" } else { "False" };
        let all = self.status.conditions.get_or_insert_default();
        let new = HorizontalPodAutoscalerCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(stored_time(self.now)),
        };
        match all.iter_mut().find(|c| c.type_ == type_) {
            Some(old) if old.status == new.status => {
                (old.reason, old.message) = (new.reason, new.message);
            }
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(hpa) = self.autoscalers.get(&key) else {
            self.histories.lock().remove(&key);
            return Ok(None);
        };
        let mut round =
            Round { status: hpa.status.clone().unwrap_or_default(), events: vec![], now: self.context.now() };
        let result = self.round(&key, &hpa, &mut round).await;
        round.status.observed_generation = hpa.metadata.generation;
        record_on(&self.recorder, &*hpa, &round.events);
        if hpa.status.as_ref() != Some(&round.status) {
            let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.context.client(), &key.namespace);
            // The history is lost with a conflict's retry, not more.
            put_status(&api, &HorizontalPodAutoscaler { status: Some(round.status), ..(*hpa).clone() }).await?;
        }
        if let Err(e) = result {
            tracing::debug!(autoscaler = %key, error = %e, "no scaling this time");
        }
        Ok(Some(self.context.config.hpa_sync_period))
    }

    async fn round(&self, key: &Key, hpa: &HorizontalPodAutoscaler, round: &mut Round) -> Result<(), String> {
        let spec = hpa.spec.clone();
        let (api, scale) = match self.scale_of(&key.namespace, &spec.scale_target_ref).await {
            Ok(found) => found,
            Err(e) => {
                let message = format!("the HPA controller was unable to get the target's current scale: {e}");
                round.set("AbleToScale", false, "FailedGetScale", message);
                round.events.push(Event::warning("FailedGetScale", e.clone()));
                return Err(e);
            }
        };
        round.set(
            "AbleToScale",
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        round.status.current_replicas = scale.status.as_ref().map(|s| s.replicas).or(Some(0));
        let least = spec.min_replicas.unwrap_or(1);
        let (desired, reason) = if current == 0 && least != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            round.set("ScalingActive", false, "ScalingDisabled", message);
            (0, String::new())
        } else if current > spec.max_replicas {
            (spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let selector = scale.status.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
            let (proposed, metric) = self.propose(key, &spec, current, &selector, round).await?;
            let limited = {
                let mut histories = self.histories.lock();
                limit(&spec, current, proposed, histories.entry(key.clone()).or_default(), round.now)
            };
            match limited.stabilized {
                Some((reason, message)) => round.set("AbleToScale", true, reason, message),
                None => round.set("AbleToScale", true, "ReadyForNewScale", "recommended size matches current size"),
            }
            let (held, reason, message) = limited.limited;
            round.set("ScalingLimited", held, reason, message);
            let direction = if limited.replicas > current { "above" } else { "below" };
            let reason = if limited.replicas < current {
                "All metrics below target".to_owned()
            } else {
                format!("{metric} {direction} target")
            };
            (limited.replicas, reason)
        };
        round.status.desired_replicas = desired;
        if desired == current {
            return Ok(());
        }
        self.rescale(key, &api, scale, current, desired, reason, round).await
    }

    #[allow(clippy::too_many_arguments)]
    async fn rescale(
        &self,
        key: &Key,
        api: &Api<DynamicObject>,
        mut scale: Scale,
        current: i32,
        desired: i32,
        reason: String,
        round: &mut Round,
    ) -> Result<(), String> {
        let target = scale.metadata.name.clone().unwrap_or_default();
        scale.spec.get_or_insert_default().replicas = Some(desired);
        if let Err(e) = api.replace_scale(&target, &PostParams::default(), &scale).await {
            let e = message_of(&e);
            round.set(
                "AbleToScale",
                false,
                "FailedUpdateScale",
                format!("the HPA controller was unable to update the target scale: {e}"),
            );
            round
                .events
                .push(Event::warning("FailedRescale", format!("New size: {desired}; reason: {reason}; error: {e}")));
            return Err(e);
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        round.set("AbleToScale", true, "SucceededRescale", message);
        round.events.push(Event::normal("SuccessfulRescale", format!("New size: {desired}; reason: {reason}")));
        round.status.last_scale_time = Some(stored_time(round.now));
        self.histories.lock().entry(key.clone()).or_default().changes.push((round.now, desired - current));
        Ok(())
    }

    async fn scale_of(
        &self,
        namespace: &str,
        target: &CrossVersionObjectReference,
    ) -> Result<(Api<DynamicObject>, Scale), String> {
        let client = self.context.client();
        let version = target.api_version.clone().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(g, _)| g);
        let found = discover(&client).await.map_err(|e| message_of(&e))?;
        let resource = found.resources.into_iter().find(|r| r.api.kind == target.kind && r.api.group == group);
        let Some(resource) = resource else {
            return Err(format!("no matches for kind {:?} in group {group:?}", target.kind));
        };
        let api = resource.objects(&client, namespace);
        let scale = api.get_scale(&target.name).await.map_err(|e| message_of(&e))?;
        Ok((api, scale))
    }

    /// The largest proposal of all metrics. When one cannot be read nothing is scaled down on the word of the others.
    async fn propose(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        selector: &str,
        round: &mut Round,
    ) -> Result<(i32, String), String> {
        let mut best: Option<(i32, String)> = None;
        let (mut failure, mut statuses) = (None, vec![]);
        let metrics = spec.metrics.clone().unwrap_or_default();
        for metric in &metrics {
            match self.one(key, spec, metric, current, selector).await {
                Ok((replicas, what, status)) => {
                    statuses.push(status);
                    if best.as_ref().is_none_or(|(n, _)| replicas > *n) {
                        best = Some((replicas, what));
                    }
                }
                Err(e) => {
                    failure.get_or_insert((failed(metric), e));
                }
            }
        }
        round.status.current_metrics = Some(statuses).filter(|s| !s.is_empty());
        match (best, failure) {
            (Some((replicas, what)), failure) if failure.is_none() || replicas >= current => {
                let message = format!("the HPA was able to successfully calculate a replica count from {what}");
                round.set("ScalingActive", true, "ValidMetricFound", message);
                Ok((replicas, what))
            }
            (_, failure) => {
                let (reason, e) = failure.unwrap_or(("InvalidMetricSourceType", "no metrics are given".to_owned()));
                round.set(
                    "ScalingActive",
                    false,
                    reason,
                    format!("the HPA was unable to compute the replica count: {e}"),
                );
                round.events.push(Event::warning(reason, e.clone()));
                round.events.push(Event::warning("FailedComputeMetricsReplicas", format!("invalid metrics: {e}")));
                Err(e)
            }
        }
    }

    fn selected(&self, namespace: &str, selector: &str) -> Result<Vec<Arc<Pod>>, String> {
        let selector = LabelSelector::parse(selector).map_err(|e| e.to_string())?;
        if selector.is_everything() {
            return Err("selector is required".to_owned());
        }
        let fits = |p: &Pod| {
            selector
                .matches(&serde_json::to_value(labels(p)).ok().and_then(|v| v.as_object().cloned()).unwrap_or_default())
        };
        Ok(self.pods.list_in(namespace).into_iter().filter(|p| fits(p)).collect())
    }

    /// (replicas, what was measured, status) by one metric.
    async fn one(
        &self,
        key: &Key,
        spec: &HorizontalPodAutoscalerSpec,
        m: &MetricSpec,
        current: i32,
        selector: &str,
    ) -> Result<(i32, String, MetricStatus), String> {
        let (client, ns) = (self.context.client(), key.namespace.as_str());
        let tolerance = tolerance(spec);
        let mut status = MetricStatus { type_: m.type_.clone(), ..MetricStatus::default() };
        if let Some(r) = &m.resource {
            let p = self.by_resource(ns, selector, &r.name, None, &r.target, current, tolerance).await?;
            status.resource = Some(ResourceMetricStatus { name: r.name.clone(), current: measured(&p) });
            return Ok((p.replicas, format!("{} resource{}", r.name, share_of(&r.target)), status));
        }
        if let Some(r) = &m.container_resource {
            let p = self.by_resource(ns, selector, &r.name, Some(&r.container), &r.target, current, tolerance).await?;
            status.container_resource = Some(ContainerResourceMetricStatus {
                name: r.name.clone(),
                container: r.container.clone(),
                current: measured(&p),
            });
            return Ok((p.replicas, format!("{} container resource{}", r.name, share_of(&r.target)), status));
        }
        if let Some(r) = &m.pods {
            let values =
                metrics::custom(&client, ns, "pods", "*", (&r.metric.name, r.metric.selector.as_ref()), Some(selector))
                    .await?;
            let samples = samples(&self.selected(ns, selector)?, &values, false, self.context.now());
            let target = amount(r.target.average_value.as_ref())?;
            let p = by_pods(current, &samples, target, None, tolerance).ok_or("no pod has a value of the metric")?;
            status.pods = Some(PodsMetricStatus { metric: r.metric.clone(), current: measured(&p) });
            return Ok((p.replicas, format!("pods metric {}", r.metric.name), status));
        }
        if let Some(r) = &m.object {
            let plural = self.plural(&r.described_object).await?;
            let metric = (r.metric.name.as_str(), r.metric.selector.as_ref());
            let value = *metrics::custom(&client, ns, &plural, &r.described_object.name, metric, None)
                .await?
                .values()
                .next()
                .ok_or("the metric has no value")?;
            let (replicas, shown) = self.by_value(ns, selector, &r.target, value, current, tolerance)?;
            status.object = Some(ObjectMetricStatus {
                described_object: r.described_object.clone(),
                metric: r.metric.clone(),
                current: shown,
            });
            return Ok((replicas, format!("{} metric {}", r.described_object.kind, r.metric.name), status));
        }
        if let Some(r) = &m.external {
            let value = metrics::external(&client, ns, &r.metric.name, r.metric.selector.as_ref()).await?;
            let (replicas, shown) = self.by_value(ns, selector, &r.target, value, current, tolerance)?;
            status.external = Some(ExternalMetricStatus { metric: r.metric.clone(), current: shown });
            return Ok((replicas, format!("external metric {}", r.metric.name), status));
        }
        Err(format!("unknown metric source type {:?}", m.type_))
    }

    #[allow(clippy::too_many_arguments)]
    async fn by_resource(
        &self,
        ns: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
        current: i32,
        tolerance: Tolerance,
    ) -> Result<Proposal, String> {
        let values = metrics::resource(&self.context.client(), ns, selector, resource, container).await?;
        let pods = self.selected(ns, selector)?;
        let samples = samples(&pods, &values, resource == "cpu", self.context.now());
        let none = "did not receive metrics for targeted pods (pods might be unready)";
        match target.average_utilization {
            None => by_pods(current, &samples, amount(target.average_value.as_ref())?, None, tolerance)
                .ok_or(none.to_owned()),
            Some(percent) => {
                let requests = requests(&pods, resource, container)?;
                by_pods(current, &samples, i64::from(percent), Some(&requests), tolerance).ok_or(none.to_owned())
            }
        }
    }

    fn by_value(
        &self,
        ns: &str,
        selector: &str,
        target: &MetricTarget,
        value: i64,
        current: i32,
        tolerance: Tolerance,
    ) -> Result<(i32, MetricValueStatus), String> {
        let bad = "the target of the metric is zero";
        if let Some(average) = &target.average_value {
            let replicas = by_share(current, value, amount(Some(average))?, tolerance).ok_or(bad)?;
            let shown = if current == 0 { 0 } else { value / i64::from(current) };
            return Ok((replicas, MetricValueStatus { average_value: Some(in_milli(shown)), ..Default::default() }));
        }
        let ready = self.selected(ns, selector)?.iter().filter(|p| pod::ready(p)).count();
        let replicas = by_total(current, value, amount(target.value.as_ref())?, ready, tolerance).ok_or(bad)?;
        Ok((replicas, MetricValueStatus { value: Some(in_milli(value)), ..Default::default() }))
    }

    async fn plural(&self, o: &CrossVersionObjectReference) -> Result<String, String> {
        let version = o.api_version.clone().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(g, _)| g);
        let found = discover(&self.context.client()).await.map_err(|e| message_of(&e))?;
        let r = found.resources.iter().find(|r| r.api.kind == o.kind && r.api.group == group);
        r.map(|r| r.display()).ok_or_else(|| format!("no matches for kind {:?} in group {group:?}", o.kind))
    }
}

fn tolerance(spec: &HorizontalPodAutoscalerSpec) -> Tolerance {
    let of = |r: Option<&HPAScalingRules>| {
        let own = r.and_then(|r| r.tolerance.as_ref()).and_then(|q| Quantity::parse(&q.0).ok());
        own.map_or(TOLERANCE, |q| q.milli_value() as f64 / 1000.0)
    };
    let b = spec.behavior.as_ref();
    Tolerance { up: of(b.and_then(|b| b.scale_up.as_ref())), down: of(b.and_then(|b| b.scale_down.as_ref())) }
}

fn amount(q: Option<&Text>) -> Result<i64, String> {
    let q = q.ok_or("the target of the metric is missing")?;
    Ok(Quantity::parse(&q.0).map_err(|e| e.to_string())?.milli_value())
}

fn in_milli(n: i64) -> Text {
    Text(Quantity::parse(&format!("{n}m")).unwrap_or_default().to_string())
}

fn measured(p: &Proposal) -> MetricValueStatus {
    MetricValueStatus { average_utilization: p.utilization, average_value: Some(in_milli(p.average)), value: None }
}

/// Events' and conditions' reason for a metric that could not be read.
/// What a metric is told as when its target is a share of what is requested.
fn share_of(target: &MetricTarget) -> &'static str {
    if target.average_utilization.is_some() { " utilization (percentage of request)" } else { "" }
}

fn failed(m: &MetricSpec) -> &'static str {
    match m.type_.as_str() {
        "Resource" => "FailedGetResourceMetric",
        "ContainerResource" => "FailedGetContainerResourceMetric",
        "Pods" => "FailedGetPodsMetric",
        "Object" => "FailedGetObjectMetric",
        "External" => "FailedGetExternalMetric",
        _ => "InvalidMetricSourceType",
    }
}

/// The pods as a metric sees them; those that end or failed are left out. `starting` makes an unready young pod one that is not measured yet.
fn samples(
    pods: &[Arc<Pod>],
    values: &BTreeMap<String, i64>,
    starting: bool,
    now: Timestamp,
) -> BTreeMap<String, Sample> {
    let mut all = BTreeMap::new();
    for p in pods.iter().filter(|p| !deleting(&***p) && pod::phase(p) != "Failed") {
        let young = created(&**p) > plus(now, -STARTING);
        let sample = match values.get(name(&**p)) {
            _ if pod::phase(p) == "Pending" => Sample::Unready,
            None => Sample::Missing,
            Some(_) if starting && young && !pod::ready(p) => Sample::Unready,
            Some(v) => Sample::Value(*v),
        };
        all.insert(name(&**p).to_owned(), sample);
    }
    all
}

/// What each pod requests, in thousandths.
fn requests(pods: &[Arc<Pod>], resource: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    let mut all = BTreeMap::new();
    for p in pods {
        let mut sum = 0;
        let spec = p.spec.clone().unwrap_or_default();
        for c in spec.containers.iter().filter(|c| container.is_none_or(|n| c.name == n)) {
            let request = c.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
            let Some(q) = request else {
                return Err(format!("missing request for {resource} in container {} of Pod {}", c.name, name(&**p)));
            };
            sum += Quantity::parse(&q.0).map_err(|e| e.to_string())?.milli_value();
        }
        all.insert(name(&**p).to_owned(), sum);
    }
    Ok(all)
}

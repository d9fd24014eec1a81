//! Reading metrics from the aggregated metrics APIs.

use std::collections::BTreeMap;

use caravel_api::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use serde_json::Value;

use crate::common::selector::to_query;

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn get(client: &Client, path: &str) -> Result<Value, String> {
    let request = http::Request::get(path).body(vec![]).map_err(|e| e.to_string())?;
    client.request::<Value>(request).await.map_err(|e| crate::common::message_of(&e))
}

/// An amount in thousandths.
fn milli(v: &Value) -> Option<i64> {
    Some(Quantity::from_value(v).ok()?.milli_value())
}

/// Use of a resource by pod, of one container or of all.
///
/// # Errors
/// In words.
pub async fn resource(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}", encode(selector));
    let list = get(client, &path).await?;
    let mut all = BTreeMap::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let containers = item["containers"].as_array().into_iter().flatten();
        let chosen: Vec<_> = containers.filter(|c| container.is_none_or(|n| c["name"] == n)).collect();
        let values: Option<Vec<i64>> = chosen.iter().map(|c| milli(&c["usage"][resource])).collect();
        if let (Some(name), Some(values)) = (item["metadata"]["name"].as_str(), values.filter(|v| !v.is_empty())) {
            all.insert(name.to_owned(), values.iter().sum());
        }
    }
    if all.is_empty() {
        return Err(format!(
            "unable to fetch metrics from resource metrics API: no metrics returned from resource metrics API for {resource}"
        ));
    }
    Ok(all)
}

/// A custom metric of every pod, or of one object.
///
/// # Errors
/// In words.
pub async fn custom(
    client: &Client,
    namespace: &str,
    resource: &str,
    object: &str,
    metric: (&str, Option<&LabelSelector>),
    pods: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let mut query = vec![];
    if let Some(s) = pods {
        query.push(format!("labelSelector={}", encode(s)));
    }
    if let Some(s) = metric.1 {
        query.push(format!("metricLabelSelector={}", encode(&to_query(s))));
    }
    let path = format!(
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/{resource}/{object}/{}?{}",
        encode(metric.0),
        query.join("&")
    );
    let list = get(client, &path).await?;
    let items = list["items"].as_array().into_iter().flatten();
    let all: BTreeMap<String, i64> =
        items.filter_map(|i| Some((i["describedObject"]["name"].as_str()?.to_owned(), milli(&i["value"])?))).collect();
    if all.is_empty() { Err(format!("no metrics returned from custom metrics API for {}", metric.0)) } else { Ok(all) }
}

/// The sum of an external metric.
///
/// # Errors
/// In words.
pub async fn external(
    client: &Client,
    namespace: &str,
    metric: &str,
    selector: Option<&LabelSelector>,
) -> Result<i64, String> {
    let query = selector.map_or(String::new(), |s| format!("?labelSelector={}", encode(&to_query(s))));
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}{query}", encode(metric));
    let list = get(client, &path).await?;
    let values: Vec<i64> = list["items"].as_array().into_iter().flatten().filter_map(|i| milli(&i["value"])).collect();
    if values.is_empty() {
        return Err(format!("no metrics returned from external metrics API for {metric}"));
    }
    Ok(values.iter().sum())
}

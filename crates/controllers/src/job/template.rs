//! The pods of a Job.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::indexes::INDEX;
use super::plan::TRACKING;
use super::policy::{FAILURES, IGNORED};
use crate::common::{name, namespace, owner_ref, pod};

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// What fits before the random suffix of a generated name.
const PREFIX: usize = 57;

/// A new pod; `index` for indexed Jobs, `failures` (counted, ignored) where they are counted by index.
pub fn pod(job: &Job, index: Option<i32>, failures: Option<(u32, u32)>) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut p = pod::from_template(&template, namespace(job), name(job), owner_ref(job));
    let finalizers = p.metadata.finalizers.get_or_insert_default();
    if finalizers.iter().all(|f| f != TRACKING) {
        finalizers.push(TRACKING.into());
    }
    let Some(i) = index else { return p };
    let suffix = format!("-{i}");
    let base: String = name(job).chars().take(PREFIX - suffix.len()).collect();
    p.metadata.generate_name = Some(format!("{base}{suffix}-"));
    p.metadata.labels.get_or_insert_default().insert(INDEX.into(), i.to_string());
    let annotations = p.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), i.to_string());
    if let Some((counted, ignored)) = failures {
        annotations.insert(FAILURES.into(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED.into(), ignored.to_string());
        }
    }
    let spec = p.spec.get_or_insert_default();
    let host: String = name(job).chars().take(63 - suffix.len()).collect();
    spec.hostname = Some(format!("{host}{suffix}"));
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(add_variable);
    p
}

/// The index as an environment variable, unless the container defines it itself.
fn add_variable(c: &mut Container) {
    let env = c.env.get_or_insert_default();
    if env.iter().any(|v| v.name == INDEX_VARIABLE) {
        return;
    }
    env.push(EnvVar {
        name: INDEX_VARIABLE.into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    });
}

//! Options of the audit log and the audit webhook, by the names that kube-apiserver gives them.

use crate::duration;
use caravel_server::AuditOptions;
use caravel_server::audit::log::LogOptions;
use caravel_server::audit::truncate::Limits;
use caravel_server::audit::webhook::{Mode, WebhookOptions};
use clap::Args as ClapArgs;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(ClapArgs, Clone)]
pub struct Audit {
    /// What is recorded of requests: a file with an audit.k8s.io/v1 Policy
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// Where requests are recorded, a JSON object a line; `-` is standard output
    #[arg(long, requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes after which the audit log is rotated; 0 is never
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// Rotated audit logs that are kept; 0 is no limit
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxbackup: usize,
    /// Days after which rotated audit logs are removed; 0 is no limit
    #[arg(long, default_value_t = 366)]
    pub audit_log_maxage: u64,
    /// A server that takes what is recorded: a kubeconfig-shaped file
    #[arg(long, requires = "audit_policy_file")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// `batch`, or `blocking`: a request waits until it is recorded; or `blocking-strict`: it is refused otherwise
    #[arg(long, default_value = "batch")]
    pub audit_webhook_mode: Mode,
    /// The pause before events are sent again that the webhook did not take
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub audit_webhook_initial_backoff: Duration,
    /// Events that wait for their batch; more are dropped, and counted in apiserver_audit_error_total
    #[arg(long, default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Events that are sent together
    #[arg(long, default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    /// The longest that an event waits for its batch to fill
    #[arg(long, default_value = "30s", value_parser = duration::parse)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Whether batches are throttled
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches a second
    #[arg(long, default_value_t = 10.0)]
    pub audit_webhook_batch_throttle_qps: f64,
    /// Batches at once after a pause
    #[arg(long, default_value_t = 15)]
    pub audit_webhook_batch_throttle_burst: u32,
    /// Whether events that are too large lose their objects
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub audit_webhook_truncate_enabled: bool,
    /// The largest event, in bytes
    #[arg(long, default_value_t = 100 << 10)]
    pub audit_webhook_truncate_max_event_size: usize,
    /// The largest batch, in bytes
    #[arg(long, default_value_t = 10 << 20)]
    pub audit_webhook_truncate_max_batch_size: usize,
}

impl Audit {
    /// What the server is told; none without a policy.
    pub fn options(&self) -> Option<AuditOptions> {
        let log = |path: &PathBuf| LogOptions {
            path: path.clone(),
            max_size: self.audit_log_maxsize << 20,
            max_backups: self.audit_log_maxbackup,
            max_age: Duration::from_secs(self.audit_log_maxage * 24 * 3600),
        };
        Some(AuditOptions {
            policy: self.audit_policy_file.clone()?,
            log: self.audit_log_path.as_ref().map(log),
            webhook: self.audit_webhook_config_file.as_ref().map(|path| self.webhook(path)),
        })
    }

    fn webhook(&self, config: &Path) -> WebhookOptions {
        let limits = Limits {
            event: self.audit_webhook_truncate_max_event_size,
            batch: self.audit_webhook_truncate_max_batch_size,
        };
        let throttle = (self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst);
        WebhookOptions {
            config: config.to_path_buf(),
            mode: self.audit_webhook_mode,
            initial_backoff: self.audit_webhook_initial_backoff,
            buffer_size: self.audit_webhook_batch_buffer_size,
            max_batch_size: self.audit_webhook_batch_max_size,
            max_batch_wait: self.audit_webhook_batch_max_wait,
            throttle: self.audit_webhook_batch_throttle_enable.then_some(throttle),
            truncate: self.audit_webhook_truncate_enabled.then_some(limits),
        }
    }

    /// The same options as words, for a process of its own. `whole` makes paths absolute.
    pub fn words(&self, whole: impl Fn(&Path) -> String) -> Vec<String> {
        let Some(policy) = &self.audit_policy_file else { return vec![] };
        let mut words = vec![format!("--audit-policy-file={}", whole(policy))];
        if let Some(log) = &self.audit_log_path {
            let log = if log.as_os_str() == "-" { "-".to_owned() } else { whole(log) };
            words.extend([
                format!("--audit-log-path={log}"),
                format!("--audit-log-maxsize={}", self.audit_log_maxsize),
                format!("--audit-log-maxbackup={}", self.audit_log_maxbackup),
                format!("--audit-log-maxage={}", self.audit_log_maxage),
            ]);
        }
        if let Some(config) = &self.audit_webhook_config_file {
            let mode = match self.audit_webhook_mode {
                Mode::Batch => "batch",
                Mode::Blocking => "blocking",
                Mode::BlockingStrict => "blocking-strict",
            };
            let said = |name: &str, value: String| format!("--audit-webhook-{name}={value}");
            words.extend([
                said("config-file", whole(config)),
                said("mode", mode.to_owned()),
                said("initial-backoff", duration::text(self.audit_webhook_initial_backoff)),
                said("batch-buffer-size", self.audit_webhook_batch_buffer_size.to_string()),
                said("batch-max-size", self.audit_webhook_batch_max_size.to_string()),
                said("batch-max-wait", duration::text(self.audit_webhook_batch_max_wait)),
                said("batch-throttle-enable", self.audit_webhook_batch_throttle_enable.to_string()),
                said("batch-throttle-qps", self.audit_webhook_batch_throttle_qps.to_string()),
                said("batch-throttle-burst", self.audit_webhook_batch_throttle_burst.to_string()),
                said("truncate-enabled", self.audit_webhook_truncate_enabled.to_string()),
                said("truncate-max-event-size", self.audit_webhook_truncate_max_event_size.to_string()),
                said("truncate-max-batch-size", self.audit_webhook_truncate_max_batch_size.to_string()),
            ]);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        audit: Audit,
    }

    fn parsed(words: &[String]) -> Audit {
        Line::try_parse_from(std::iter::once("x".to_owned()).chain(words.iter().cloned())).unwrap().audit
    }

    /// What a command line says arrives in the process that it starts.
    #[test]
    fn words_say_the_same() {
        let words: Vec<String> = [
            "--audit-policy-file=/p",
            "--audit-webhook-config-file=/w",
            "--audit-webhook-mode=blocking",
            "--audit-webhook-batch-max-wait=1m30s",
            "--audit-webhook-batch-throttle-enable=false",
            "--audit-webhook-truncate-enabled",
        ]
        .map(str::to_owned)
        .to_vec();
        let first = parsed(&words);
        let webhook = first.options().unwrap().webhook.unwrap();
        assert_eq!((webhook.mode, webhook.max_batch_wait), (Mode::Blocking, Duration::from_secs(90)));
        assert_eq!((webhook.throttle, webhook.truncate), (None, Some(Limits::default())));
        assert_eq!(webhook.initial_backoff, Duration::from_secs(10));
        let again = parsed(&first.words(|path| path.display().to_string()));
        assert_eq!(format!("{:?}", again.options()), format!("{:?}", first.options()));
        assert!(parsed(&[]).options().is_none());
    }
}

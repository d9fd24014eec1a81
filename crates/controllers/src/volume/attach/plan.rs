//! Deciding about the attachments of one node (upstream's attach-detach reconciler).

use std::collections::BTreeMap;
use std::time::Duration;

use super::names::VolumeId;
use crate::common::sooner;

/// After so long a volume is taken from a node that is not ready although the node may still have it mounted.
pub const FORCE_AFTER: Duration = Duration::from_secs(6 * 60);

/// What is known of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeState {
    /// It exists.
    pub exists: bool,
    /// It is ready.
    pub healthy: bool,
    /// An administrator declared that it is down for sure (KEP-2268).
    pub out_of_service: bool,
    /// The volumes that its status calls attached, by their unique names.
    pub reported: Vec<String>,
}

/// How far an attachment is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attachment {
    /// The driver has not said yet that it is done.
    Pending,
    /// Done.
    Attached,
    /// The driver is to detach it, or does.
    Deleting,
}

/// Whether the volume is attached to other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Elsewhere {
    /// To none.
    #[default]
    No,
    /// Attaching or detaching is under way.
    Underway,
    /// To one at least.
    Attached,
}

/// One volume on the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeState {
    /// A pod of the node uses it and its driver has volumes attached.
    pub wanted: bool,
    /// It can be attached to one node at a time.
    pub exclusive: bool,
    /// Its attachment to the node.
    pub attachment: Option<Attachment>,
    /// Its attachments to other nodes.
    pub elsewhere: Elsewhere,
    /// The kubelet says that it uses it.
    pub in_use: bool,
    /// How long ago it was found not to be wanted any more.
    pub unwanted_for: Duration,
}

/// Everything that a decision about one node rests on.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The node.
    pub node: NodeState,
    /// Volumes that are wanted, attached or reported.
    pub volumes: BTreeMap<VolumeId, VolumeState>,
}

/// A volume to take from the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Detach {
    /// Which.
    pub volume: VolumeId,
    /// Whether or not the kubelet uses it.
    pub forced: bool,
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// `volumesAttached` of the node, when it differs. What is detached is taken off the list first: a kubelet mounts nothing
    /// that is not on it.
    pub report: Option<Vec<String>>,
    /// Volumes to detach.
    pub detach: Vec<Detach>,
    /// Volumes to attach.
    pub attach: Vec<VolumeId>,
    /// Volumes that cannot be attached since another node has them.
    pub refused: Vec<VolumeId>,
    /// When to look again though nothing changes.
    pub again: Option<Duration>,
}

/// Decides about one node.
pub fn plan(s: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    let mut report = vec![];
    for (id, v) in &s.volumes {
        match (v.wanted, v.attachment) {
            (true, None) => match v.elsewhere {
                _ if !s.node.exists => {}
                Elsewhere::Attached if v.exclusive => plan.refused.push(id.clone()),
                Elsewhere::Underway if v.exclusive => {}
                _ => plan.attach.push(id.clone()),
            },
            (true, Some(Attachment::Attached)) => report.push(id.unique_name()),
            (false, Some(have @ (Attachment::Attached | Attachment::Pending))) => {
                let overdue = !s.node.healthy && v.unwanted_for >= FORCE_AFTER;
                let forced = s.node.out_of_service || overdue;
                if !v.in_use || forced {
                    plan.detach.push(Detach { volume: id.clone(), forced });
                    continue;
                }
                if have == Attachment::Attached {
                    report.push(id.unique_name());
                }
                if !s.node.healthy {
                    plan.again = sooner(plan.again, Some(FORCE_AFTER - v.unwanted_for));
                }
            }
            (_, Some(Attachment::Pending | Attachment::Deleting)) | (false, None) => {}
        }
    }
    report.sort();
    let mut reported = s.node.reported.clone();
    reported.sort();
    if s.node.exists && report != reported {
        plan.report = Some(report);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> VolumeId {
        VolumeId { driver: "d".into(), handle: "h".into() }
    }

    /// What a plan does, in a word or several.
    fn said(node: &NodeState, v: VolumeState) -> String {
        let p = plan(&Snapshot { node: node.clone(), volumes: [(id(), v)].into() });
        let mut words = vec![];
        if let Some(r) = &p.report {
            words.push(if r.is_empty() { "unreport".to_owned() } else { "report".to_owned() });
        }
        words.extend(p.detach.iter().map(|d| if d.forced { "force" } else { "detach" }.to_owned()));
        words.extend(p.attach.iter().map(|_| "attach".to_owned()));
        words.extend(p.refused.iter().map(|_| "refuse".to_owned()));
        words.extend(p.again.map(|d| format!("in {}", d.as_secs())));
        words.join(", ")
    }

    #[test]
    fn wanted_volumes() {
        use Attachment::*;
        let node = NodeState { exists: true, healthy: true, ..Default::default() };
        let told = NodeState { reported: vec![id().unique_name()], ..node.clone() };
        let gone = NodeState::default();
        let want = VolumeState { wanted: true, exclusive: true, ..Default::default() };
        let with = |attachment| VolumeState { attachment: Some(attachment), ..want.clone() };
        let other = |elsewhere, exclusive| VolumeState { elsewhere, exclusive, ..want.clone() };
        for (node, volume, wanted) in [
            (&node, want.clone(), "attach"),
            (&gone, want.clone(), ""),
            (&node, with(Pending), ""),
            (&node, with(Attached), "report"),
            (&told, with(Attached), ""),
            (&told, with(Deleting), "unreport"),
            (&told, with(Pending), "unreport"),
            (&node, other(Elsewhere::Attached, true), "refuse"),
            (&node, other(Elsewhere::Underway, true), ""),
            (&node, other(Elsewhere::Attached, false), "attach"),
            (&node, other(Elsewhere::Underway, false), "attach"),
        ] {
            assert_eq!(said(node, volume.clone()), wanted, "{node:?} {volume:?}");
        }
    }

    #[test]
    fn volumes_nobody_wants() {
        let node = NodeState { exists: true, healthy: true, reported: vec![id().unique_name()], ..Default::default() };
        let ill = NodeState { healthy: false, ..node.clone() };
        let down = NodeState { out_of_service: true, ..ill.clone() };
        let gone = NodeState::default();
        let free = VolumeState { attachment: Some(Attachment::Attached), ..Default::default() };
        let used = VolumeState { in_use: true, ..free.clone() };
        let after = |seconds| VolumeState { unwanted_for: Duration::from_secs(seconds), ..used.clone() };
        for (node, volume, wanted) in [
            (&node, free.clone(), "unreport, detach"),
            (&node, used.clone(), ""),
            (&node, after(3600), ""),
            (&ill, after(60), "in 300"),
            (&ill, after(360), "unreport, force"),
            (&down, used.clone(), "unreport, force"),
            (&gone, free.clone(), "detach"),
            (&gone, after(60), "in 300"),
            (&gone, after(400), "force"),
            (&node, VolumeState { attachment: Some(Attachment::Deleting), ..used.clone() }, "unreport"),
            (&node, VolumeState { attachment: Some(Attachment::Pending), ..Default::default() }, "unreport, detach"),
            (&node, VolumeState::default(), "unreport"),
        ] {
            assert_eq!(said(node, volume.clone()), wanted, "{node:?} {volume:?}");
        }
    }
}

//! Beyond upstream, and only for Deployments that ask by annotation: a rolling update in steps.
//!
//! Each step gives the new ReplicaSet a share of the replicas and stays there, for a time or until somebody promotes it. How far a
//! rollout is stands in an annotation, so that a controller that starts anew goes on where the last one was.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::beyond::LAST_GOOD;
use super::util::*;
use crate::common::{Event, annotation, name, plus, until};

/// The steps: `10%:5m,50%` stays at a tenth for five minutes, then at a half until it is promoted.
pub const STEPS: &str = "caravel.dev/canary-steps";
/// Set by a person, taken away by the controller: `next` ends the present step, `all` ends all of them.
pub const PROMOTE: &str = "caravel.dev/canary-promote";
/// Written by the controller: `REPLICASET STEP/STEPS`, and `since TIME` once the step is reached; `REPLICASET promoted` after the last.
pub const STATE: &str = "caravel.dev/canary-state";

/// More steps than this are taken for a mistake.
const MOST: usize = 20;

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Percent of the replicas, 1 to 100.
    pub weight: i32,
    /// How long it lasts once it is reached; `None` until it is promoted.
    pub pause: Option<Duration>,
}

/// What the steps make of a round of a rollout.
#[derive(Debug, Default, PartialEq)]
pub struct Canary {
    /// The most replicas that the new ReplicaSet may have; `None` when nothing holds it back.
    pub cap: Option<i32>,
    /// Why the rollout stands still on purpose, if it does.
    pub holding: Option<String>,
    /// Annotations to set (`None` removes).
    pub annotations: Vec<(String, Option<String>)>,
    /// Events.
    pub events: Vec<Event>,
    /// When the step ends.
    pub again: Option<Duration>,
}

/// Whether a Deployment asks for steps.
pub fn asked(d: &Deployment) -> bool {
    annotation(d, STEPS).is_some()
}

/// Reads the steps.
///
/// # Errors
/// What is wrong with them, and where.
pub fn steps(text: &str) -> Result<Vec<Step>, String> {
    let all: Result<Vec<Step>, String> = text.split(',').map(|s| step(s.trim())).collect();
    let all = all?;
    if all.len() > MOST {
        return Err(format!("{} steps are too many: at most {MOST}", all.len()));
    }
    if let Some(w) = all.windows(2).find(|w| w[1].weight <= w[0].weight) {
        return Err(format!("{}% after {}%: the weights must grow", w[1].weight, w[0].weight));
    }
    Ok(all)
}

fn step(text: &str) -> Result<Step, String> {
    let (weight, pause) = text.split_once(':').map_or((text, None), |(w, p)| (w, Some(p)));
    let wrong = |what: &str| format!("step {text:?}: {what} (a step is PERCENT%, or PERCENT%:DURATION as in 10%:5m)");
    let weight: i32 =
        weight.strip_suffix('%').and_then(|w| w.parse().ok()).ok_or_else(|| wrong("the weight is no percentage"))?;
    if !(1..=100).contains(&weight) {
        return Err(wrong("the weight must be from 1% to 100%"));
    }
    let pause = pause.map(|p| {
        let span: Result<SignedDuration, _> = p.parse();
        span.ok().and_then(|s| Duration::try_from(s).ok()).ok_or_else(|| wrong("the duration cannot be read"))
    });
    Ok(Step { weight, pause: pause.transpose()? })
}

/// The replicas that a step gives to the new ReplicaSet: rounded up, so that there is at least one to look at.
fn share(d: &Deployment, step: &Step) -> i32 {
    let product = i64::from(replicas(d)) * i64::from(step.weight);
    i32::try_from((product + 99) / 100).unwrap_or(i32::MAX)
}

/// How far the rollout of one ReplicaSet is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct State {
    /// Steps that are over.
    over: usize,
    /// Since when the present one is reached.
    since: Option<Timestamp>,
}

fn state_of(d: &Deployment, rs: &str) -> Option<State> {
    let mut words = annotation(d, STATE)?.split_whitespace();
    if words.next()? != rs {
        return None;
    }
    match words.next()? {
        "promoted" => Some(State { over: usize::MAX, since: None }),
        at => {
            let number: usize = at.split_once('/')?.0.parse().ok()?;
            let since = words.next().filter(|w| *w == "since").and_then(|_| words.next()?.parse().ok());
            Some(State { over: number.checked_sub(1)?, since })
        }
    }
}

fn written(rs: &str, state: State, count: usize) -> String {
    match state.since {
        _ if state.over >= count => format!("{rs} promoted"),
        None => format!("{rs} {}/{count}", state.over + 1),
        Some(at) => format!("{rs} {}/{count} since {}", state.over + 1, at.strftime("%Y-%m-%dT%H:%M:%SZ")),
    }
}

/// The most replicas that a ReplicaSet may begin with; `old` is what the others have.
pub fn first_cap(d: &Deployment, old: i32) -> Option<i32> {
    let text = annotation(d, STEPS).filter(|_| old > 0 && rolling(d))?;
    // What cannot be read lets nothing through: the next round says so.
    Some(steps(text).map_or(0, |all| all.first().map_or(0, |s| share(d, s))))
}

/// Decides how far the rollout of `rs` may go now; `old` is what the other ReplicaSets have.
pub fn decide(d: &Deployment, rs: &ReplicaSet, old: i32, now: Timestamp) -> Canary {
    let (Some(text), true) = (annotation(d, STEPS), rolling(d)) else { return over(d, false) };
    let known = state_of(d, name(rs));
    // The template that was complete last is returned to without steps, and so is a first rollout.
    if annotation(d, LAST_GOOD) == Some(name(rs)) || (known.is_none() && old == 0) {
        return over(d, true);
    }
    let steps = match steps(text) {
        Ok(steps) => steps,
        Err(why) => {
            let note = format!("{STEPS}: {why}; the rollout waits");
            let events = vec![Event::warning("InvalidCanarySteps", note.clone())];
            return Canary { cap: Some(rs_replicas(rs)), holding: Some(note), events, ..Canary::default() };
        }
    };
    let mut canary = Canary::default();
    let mut state = known.unwrap_or_default();
    if known.is_none() {
        canary.events.extend(steps.first().map(|s| begun(d, rs, 1, s, steps.len())));
    }
    if let Some(how) = annotation(d, PROMOTE) {
        canary.annotations.push((PROMOTE.into(), None));
        state = next(d, rs, &steps, if how == "all" { usize::MAX } else { state.over.saturating_add(1) }, &mut canary);
    }
    if let Some(step) = steps.get(state.over) {
        state = stay(d, rs, &steps, (state, step), now, &mut canary);
    }
    if let Some(step) = steps.get(state.over) {
        canary.cap = Some(share(d, step).max(rs_replicas(rs)));
    }
    let text = written(name(rs), state, steps.len());
    if annotation(d, STATE) != Some(&text) {
        canary.annotations.push((STATE.into(), Some(text)));
    }
    canary
}

/// No steps, or they are over: what was written goes; a promotion that promotes nothing goes, too, where steps are asked for.
fn over(d: &Deployment, asked: bool) -> Canary {
    let gone = [STATE, PROMOTE].into_iter().filter(|k| annotation(d, k).is_some() && (asked || *k == STATE));
    Canary { annotations: gone.map(|k| (k.to_owned(), None)).collect(), ..Canary::default() }
}

/// Stays at a step that is reached, or ends it when its time is over.
fn stay(
    d: &Deployment,
    rs: &ReplicaSet,
    steps: &[Step],
    (state, step): (State, &Step),
    now: Timestamp,
    canary: &mut Canary,
) -> State {
    let wanted = share(d, step);
    let observed = rs.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
    let fresh = observed >= rs.metadata.generation.unwrap_or(0);
    if !fresh || rs_replicas(rs) < wanted || rs_available(rs) < wanted {
        // Whatever was reached is reached no more: the time counts anew, and the progress deadline meanwhile.
        return State { since: None, ..state };
    }
    // As it is written: without parts of a second.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let since = state.since.unwrap_or(now);
    let left = step.pause.map(|p| until(plus(since, i64::try_from(p.as_secs()).unwrap_or(i64::MAX)), now));
    if left == Some(None) {
        return next(d, rs, steps, state.over + 1, canary);
    }
    let at = format!("canary step {} of {} ({}%)", state.over + 1, steps.len(), step.weight);
    canary.again = left.flatten();
    canary.holding = Some(match step.pause {
        Some(_) => format!("{at} is reached and lasts for a while"),
        None => format!("{at} is reached and waits for {PROMOTE}"),
    });
    if state.since.is_none() && step.pause.is_none() {
        let note = format!("{at} of ReplicaSet {:?} is reached: set {PROMOTE}=next to go on", name(rs));
        canary.events.push(Event::normal("CanaryWaits", note));
    }
    State { since: Some(since), ..state }
}

fn next(d: &Deployment, rs: &ReplicaSet, steps: &[Step], over: usize, canary: &mut Canary) -> State {
    canary.events.push(match steps.get(over) {
        Some(step) => begun(d, rs, over + 1, step, steps.len()),
        None => Event::normal("CanaryPromoted", format!("ReplicaSet {:?} takes over from the others", name(rs))),
    });
    State { over, since: None }
}

fn begun(d: &Deployment, rs: &ReplicaSet, number: usize, step: &Step, count: usize) -> Event {
    let note = format!(
        "canary step {number} of {count}: ReplicaSet {:?} gets {}% ({} of {} Pods)",
        name(rs),
        step.weight,
        share(d, step),
        replicas(d)
    );
    Event::normal("CanaryStep", note)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn reads_steps() {
        let step = |weight, pause: Option<u64>| Step { weight, pause: pause.map(Duration::from_secs) };
        assert_eq!(steps("10%:5m, 50%"), Ok(vec![step(10, Some(300)), step(50, None)]));
        assert_eq!(steps("100%:0s"), Ok(vec![step(100, Some(0))]));
        assert_eq!(steps("5%:1h30m"), Ok(vec![step(5, Some(5400))]));
        for (text, wanted) in [
            ("", "no percentage"),
            ("10", "no percentage"),
            ("0%", "from 1% to 100%"),
            ("101%", "from 1% to 100%"),
            ("10%:soon", "duration cannot be read"),
            ("10%:-5m", "duration cannot be read"),
            ("50%,50%", "must grow"),
            (&vec!["1%"; 21].join(","), "too many"),
        ] {
            let said = steps(text).unwrap_err();
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }

    fn deployment(annotations: Value) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "d", "annotations": annotations},
            "spec": {"replicas": 10, "selector": {}, "template": {}}}))
        .unwrap()
    }

    fn set(size: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": "new", "generation": 1},
            "spec": {"replicas": size, "selector": {}},
            "status": {"replicas": size, "availableReplicas": available, "observedGeneration": 1}}))
        .unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// The cap, whether it holds, the state written, and the events' reasons.
    fn decided(annotations: Value, rs: (i32, i32), old: i32, second: i64) -> String {
        let c = decide(&deployment(annotations), &set(rs.0, rs.1), old, at(second));
        let state = c.annotations.iter().find(|(k, _)| k == STATE).map(|(_, v)| v.clone().unwrap_or("none".into()));
        let cap = c.cap.map_or("free".to_owned(), |n| n.to_string());
        let hold = if c.holding.is_some() { " holds" } else { "" };
        let again = c.again.map_or(String::new(), |a| format!(" {}s", a.as_secs()));
        let events: Vec<&str> = c.events.iter().map(|e| e.reason).collect();
        format!("{cap}{hold}{again} [{}] {}", state.unwrap_or_default(), events.join(" ")).trim_end().to_owned()
    }

    #[test]
    fn steps_of_a_rollout() {
        const S: &str = "10%:1m,50%";
        let reached = at(0).strftime("new 1/2 since %Y-%m-%dT%H:%M:%SZ").to_string();
        let half = at(0).strftime("new 2/2 since %Y-%m-%dT%H:%M:%SZ").to_string();
        let with = |state: &str| json!({STEPS: S, STATE: state});
        for (annotations, rs, old, second, wanted) in [
            (json!({}), (0, 0), 10, 0, "free []".to_owned()),
            (json!({STEPS: S}), (0, 0), 0, 0, "free []".into()),
            (json!({STEPS: S, LAST_GOOD: "new", STATE: "old 1/2"}), (3, 3), 7, 0, "free [none]".into()),
            (json!({STEPS: S}), (0, 0), 10, 0, "1 [new 1/2] CanaryStep".into()),
            (json!({STEPS: S, STATE: "other promoted"}), (0, 0), 10, 0, "1 [new 1/2] CanaryStep".into()),
            (with("new 1/2"), (1, 0), 10, 0, "1 []".into()),
            (with("new 1/2"), (1, 1), 10, 0, format!("1 holds 60s [{reached}]")),
            (with(&reached), (1, 1), 9, 20, "1 holds 40s []".into()),
            (with(&reached), (1, 0), 9, 20, "1 [new 1/2]".into()),
            (with(&reached), (1, 1), 9, 60, "5 [new 2/2] CanaryStep".into()),
            (with("new 2/2"), (5, 5), 5, 0, format!("5 holds [{half}] CanaryWaits")),
            (with(&half), (5, 5), 5, 9999, "5 holds []".into()),
            (
                json!({STEPS: S, STATE: half, PROMOTE: "next"}),
                (5, 5),
                5,
                9,
                "free [new promoted] CanaryPromoted".into(),
            ),
            (json!({STEPS: S, STATE: "new 1/2", PROMOTE: "next"}), (1, 0), 9, 9, "5 [new 2/2] CanaryStep".into()),
            (
                json!({STEPS: S, STATE: "new 1/2", PROMOTE: "all"}),
                (1, 0),
                9,
                9,
                "free [new promoted] CanaryPromoted".into(),
            ),
            (with("new promoted"), (7, 7), 3, 9, "free []".into()),
            // What is there already is not taken away.
            (with("new 1/2"), (4, 2), 6, 0, "4 holds 60s".to_owned() + &format!(" [{reached}]")),
            (json!({STEPS: "much"}), (0, 0), 10, 0, "0 holds [] InvalidCanarySteps".into()),
        ] {
            assert_eq!(decided(annotations.clone(), rs, old, second), wanted, "{annotations} {rs:?}");
        }
        // A promotion is used up once.
        let d = deployment(json!({STEPS: S, STATE: "new 1/2", PROMOTE: "next"}));
        assert!(decide(&d, &set(1, 1), 9, at(0)).annotations.contains(&(PROMOTE.into(), None)));
    }

    #[test]
    fn a_new_replica_set_begins_small() {
        let d = deployment(json!({STEPS: "25%,50%"}));
        assert_eq!((first_cap(&d, 10), first_cap(&d, 0)), (Some(3), None));
        assert_eq!(first_cap(&deployment(json!({STEPS: "x"})), 10), Some(0));
        assert_eq!(first_cap(&deployment(json!({})), 10), None);
    }
}

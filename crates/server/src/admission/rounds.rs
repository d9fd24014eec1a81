//! The second round of plug-ins that change objects. Webhooks and policies whose `reinvocationPolicy` is `IfNeeded` see an object
//! once more when something changed it after them: another of their own sort, one of the other sort, or a built-in plug-in
//! that ran again. There is no third round.

use serde_json::Value;
use std::collections::HashSet;

/// One sort: the webhooks, or the policies.
#[derive(Debug, Default)]
pub struct Party {
    /// Who wants to know of later changes, and has not been told of any.
    waiting: HashSet<String>,
    /// Who is to see the object again.
    due: HashSet<String>,
    /// The object as this sort left it.
    left: Option<Value>,
}

impl Party {
    /// Something changed the object: who saw it before and wants to know is to see it again.
    pub fn require(&mut self) {
        self.due.extend(self.waiting.drain());
    }

    /// This one saw the object and wants to know of later changes.
    pub fn waits(&mut self, who: String) {
        self.waiting.insert(who);
    }

    /// This sort is done with its round.
    pub fn leave(&mut self, object: Option<&Value>) {
        self.left = object.cloned();
    }
}

/// Both sorts, and which round is under way.
#[derive(Debug, Default)]
pub struct Rounds {
    second: bool,
    /// Something changed the object after somebody had seen it, so all plug-ins run again.
    again: bool,
    /// The webhooks.
    pub webhooks: Party,
    /// The policies.
    pub policies: Party,
}

impl Rounds {
    /// Begins the second round, if there is to be one.
    pub fn begin_second(&mut self) -> bool {
        if self.second || !self.again {
            return false;
        }
        self.second = true;
        true
    }

    /// A sort begins its part of a round with this object; whether it is the second round.
    pub fn begin(&mut self, sort: fn(&mut Self) -> &mut Party, object: Option<&Value>) -> bool {
        let second = self.second;
        let party = sort(self);
        if second && party.left.as_ref() != object {
            // Others changed the object since.
            party.require();
        }
        second
    }

    /// Whether this one is to see the object: everybody in the first round, and then who is due.
    pub fn is_due(&mut self, sort: fn(&mut Self) -> &mut Party, who: &str) -> bool {
        !self.second || sort(self).due.contains(who)
    }

    /// One of this sort changed the object.
    pub fn changed(&mut self, sort: fn(&mut Self) -> &mut Party) {
        sort(self).require();
        self.again = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn webhooks(rounds: &mut Rounds) -> &mut Party {
        &mut rounds.webhooks
    }

    fn policies(rounds: &mut Rounds) -> &mut Party {
        &mut rounds.policies
    }

    #[test]
    fn the_second_round_is_for_those_who_asked_for_it() {
        let mut rounds = Rounds::default();
        rounds.webhooks.waits("a".into());
        assert!(!rounds.begin_second(), "nothing changed");
        rounds.changed(webhooks);
        assert!(rounds.begin_second());
        assert!(rounds.is_due(webhooks, "a") && !rounds.is_due(webhooks, "b"));
        assert!(!rounds.begin_second(), "there is no third");
    }

    #[test]
    fn one_sort_learns_of_the_changes_of_the_other() {
        let mut rounds = Rounds::default();
        let (before, after) = (json!({"a": 1}), json!({"a": 2}));
        assert!(!rounds.begin(policies, Some(&before)));
        rounds.policies.waits("p".into());
        rounds.policies.leave(Some(&before));
        assert!(!rounds.begin(webhooks, Some(&before)));
        rounds.webhooks.waits("w".into());
        rounds.webhooks.leave(Some(&before));
        // A webhook that does not wait changes the object.
        rounds.changed(webhooks);
        rounds.webhooks.leave(Some(&after));
        assert!(rounds.begin_second());
        assert!(rounds.begin(policies, Some(&after)));
        assert!(rounds.is_due(policies, "p"));
        rounds.policies.leave(Some(&after));
        assert!(rounds.begin(webhooks, Some(&after)));
        assert!(rounds.is_due(webhooks, "w"), "another webhook changed it after this one");
    }
}

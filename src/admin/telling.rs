//! Turns events into log lines, status and metrics, one file for each subject. `runtime::observe` says what happened; nothing
//! here decides anything.

pub(crate) mod commits;
pub(crate) mod manual;
pub(crate) mod replicas;
pub(crate) mod rules;
pub(crate) mod source;
pub(crate) mod targets;

/// A condition that is logged once when it begins and once when it ends.
#[derive(Debug, Clone, Copy, Default)]
struct Spell(bool);

impl Spell {
    /// The condition holds. Returns whether it did not hold before.
    fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }

    /// The condition does not hold. Returns whether it held before.
    fn ends(&mut self) -> bool {
        std::mem::replace(&mut self.0, false)
    }
}

#[cfg(test)]
mod tests {
    use super::Spell;

    #[test]
    fn a_spell_begins_once_and_ends_once() {
        let mut spell = Spell::default();
        assert!(!spell.ends() && spell.begins() && !spell.begins());
        assert!(spell.ends() && !spell.ends() && spell.begins());
    }
}

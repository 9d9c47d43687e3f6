//! What people are told, by subject: the log line, the status and the metric of one event stand together. What happens comes
//! from `runtime::observe`; nothing here decides anything.

pub(crate) mod commits;
pub(crate) mod manual;
pub(crate) mod replicas;
pub(crate) mod rules;
pub(crate) mod source;
pub(crate) mod targets;

/// A state of affairs that is worth one line when it begins and one when it ends.
#[derive(Debug, Clone, Copy, Default)]
struct Spell(bool);

impl Spell {
    /// It is so. Whether it was not before.
    fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }

    /// It is not so. Whether it was before.
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

//! Inheritance: `SELECT … FROM parent` also reads the rows of the table's children, whose changes come under the
//! children's own names. So a child gets the rules of every table that it inherits from.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::types::change::Relation;
use crate::types::database::Database;
use crate::types::table::{Table, TableName};

/// The tables that inherit from tables of rules. Identified by oid, which the stream contains and a rename does not
/// change.
#[derive(Debug, Clone, Default)]
pub struct Heirs(HashMap<u32, Heir>);

#[derive(Debug, Clone)]
struct Heir {
    name: TableName,
    parents: BTreeSet<TableName>,
}

impl Heirs {
    /// The tables that one look at the catalogue found.
    pub fn of(database: &Database) -> Heirs {
        let mut heirs = Heirs::default();
        heirs.looked(&database.asked, &database.tables);
        heirs
    }

    /// Takes in another look at the catalogue: at the tables in `asked` and all that inherit from them. Such a child
    /// may also be the table of another rule; the look says nothing about what inherits from it. Returns each table
    /// whose parents changed: its oid, with its parents before and after.
    pub fn looked(&mut self, asked: &[TableName], tables: &[Table]) -> Vec<(u32, Vec<TableName>)> {
        let looked_at: HashSet<&TableName> = asked.iter().collect();
        let mut now = self.0.clone();
        for heir in now.values_mut() {
            heir.parents.retain(|parent| !looked_at.contains(parent));
        }
        for table in tables.iter().filter(|table| !table.parents.is_empty()) {
            let heir = now.entry(table.oid).or_insert(Heir { name: table.name.clone(), parents: BTreeSet::new() });
            heir.name.clone_from(&table.name);
            heir.parents.extend(table.parents.iter().cloned());
        }
        now.retain(|_, heir| !heir.parents.is_empty());
        let before = std::mem::replace(&mut self.0, now);
        let parents =
            |heirs: &HashMap<u32, Heir>, oid| heirs.get(oid).map_or(BTreeSet::new(), |heir| heir.parents.clone());
        let gone = before.keys().filter(|oid| !self.0.contains_key(oid));
        let both = self.0.keys().chain(gone).map(|oid| (*oid, parents(&before, oid), parents(&self.0, oid)));
        both.filter(|(_, was, is)| was != is).map(|(oid, was, is)| (oid, was.union(&is).cloned().collect())).collect()
    }

    /// Whether the relation inherits from the table. A relation without an oid is identified by its name.
    pub fn inherits(&self, relation: &Relation, parent: &TableName) -> bool {
        match relation.oid {
            0 => self.named(|name| (&name.schema, &name.name) == (&relation.schema, &relation.name)),
            oid => self.0.get(&oid),
        }
        .is_some_and(|heir| heir.parents.contains(parent))
    }

    /// Whether the table `name` inherits from `parent`.
    pub fn inherits_by_name(&self, name: &TableName, parent: &TableName) -> bool {
        self.named(|its| its == name).is_some_and(|heir| heir.parents.contains(parent))
    }

    fn named(&self, is: impl Fn(&TableName) -> bool) -> Option<&Heir> {
        self.0.values().find(|heir| is(&heir.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::change::ReplicaIdentity;

    fn name(name: &str) -> TableName {
        TableName { schema: "public".to_owned(), name: name.to_owned() }
    }

    fn table(oid: u32, its: &str, parents: &[&str]) -> Table {
        Table { oid, name: name(its), parents: parents.iter().map(|its| name(its)).collect(), ..Table::default() }
    }

    fn relation(oid: u32, name: &str) -> Relation {
        let (schema, name) = ("public".to_owned(), name.to_owned());
        Relation { oid, schema, name, identity: ReplicaIdentity::Default, columns: Vec::new() }
    }

    /// Looks at the tables with these names, and at all that inherit from them.
    fn look(heirs: &mut Heirs, asked: &[&str], tables: &[Table]) -> Vec<(u32, Vec<TableName>)> {
        heirs.looked(&asked.iter().map(|its| name(its)).collect::<Vec<_>>(), tables)
    }

    #[test]
    fn a_child_is_known_by_its_oid_and_by_its_name_where_there_is_none() {
        let mut heirs = Heirs::default();
        look(&mut heirs, &["parent", "other"], &[table(1, "parent", &[]), table(2, "child", &["parent", "other"])]);
        assert!(heirs.inherits(&relation(2, "renamed"), &name("parent")));
        assert!(heirs.inherits(&relation(2, "child"), &name("other")));
        assert!(heirs.inherits(&relation(0, "child"), &name("parent")));
        assert!(!heirs.inherits(&relation(3, "child"), &name("parent")), "another one of that name");
        assert!(!heirs.inherits(&relation(2, "child"), &name("child")));
        assert!(heirs.inherits_by_name(&name("child"), &name("parent")));
        assert!(!heirs.inherits_by_name(&name("parent"), &name("parent")));
    }

    #[test]
    fn a_look_at_some_tables_leaves_what_inherits_from_others_alone() {
        let child = |parents: &[&str]| table(3, "child", parents);
        let mut heirs = Heirs::default();
        look(&mut heirs, &["a", "b"], &[table(1, "a", &[]), table(2, "b", &[]), child(&["a", "b"])]);
        let both = vec![name("a"), name("b")];
        assert_eq!(look(&mut heirs, &["a"], &[table(1, "a", &[]), child(&["a"])]), [], "nothing is new");
        assert_eq!(look(&mut heirs, &["a"], &[table(1, "a", &[])]), [(3, both)], "it does not inherit from a any more");
        assert!(
            heirs.inherits(&relation(3, "child"), &name("b")) && !heirs.inherits(&relation(3, "child"), &name("a"))
        );
        assert_eq!(look(&mut heirs, &["b"], &[table(2, "b", &[])]), [(3, vec![name("b")])]);
        assert_eq!(look(&mut heirs, &["b"], &[table(2, "b", &[])]), []);
        assert_eq!(look(&mut heirs, &["a"], &[table(1, "a", &[]), table(4, "new", &["a"])]), [(4, vec![name("a")])]);
    }

    #[test]
    fn a_child_that_is_a_table_of_a_rule_itself_keeps_its_own_children_when_its_parent_alone_is_looked_at() {
        let mut heirs = Heirs::default();
        let tables =
            [table(1, "vehicles", &[]), table(2, "cars", &["vehicles"]), table(3, "sports", &["vehicles", "cars"])];
        look(&mut heirs, &["vehicles", "cars"], &tables);
        let more = [
            table(1, "vehicles", &[]),
            table(2, "cars", &["vehicles"]),
            table(3, "sports", &["vehicles"]),
            table(4, "trucks", &["vehicles"]),
        ];
        assert_eq!(look(&mut heirs, &["vehicles"], &more), [(4, vec![name("vehicles")])]);
        assert!(heirs.inherits(&relation(3, "sports"), &name("cars")));
    }
}

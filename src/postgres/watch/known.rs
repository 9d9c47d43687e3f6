//! What the last look showed, so that the next one need describe only what has changed since.

use super::tables::Footprint;
use crate::types::table::TableName;

/// A row of the catalogue, by its oid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Thing {
    pub(super) kind: Kind,
    pub(super) oid: u32,
}

/// What is looked for by that oid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A table, a member of its tree, or a composite type, with its columns.
    Class,
    /// Its entry in the publication, or its schema's.
    Entry,
    /// An index of its replica identity.
    Index,
    /// An enum of a column.
    Enum,
    /// A relation without such an index.
    Bare,
    /// A table without an entry of its own in the publication.
    Unentered,
}

/// All tables as they were at the last look.
#[derive(Debug, Default)]
pub(super) struct Known {
    footprints: Vec<Footprint>,
    /// Everything in the footprints and whose it is, in order.
    owners: Vec<(Thing, u32)>,
    /// The places of tables that are not there.
    missing: Vec<usize>,
}

/// What may have changed since, as the server says it.
pub(super) struct Touched {
    pub(super) things: Vec<Thing>,
    /// Places within [`Known::missing`], from 1 on.
    pub(super) found: Vec<i64>,
}

impl Known {
    /// Replaces the footprints at `places`. Gives those of them whose shape is another one.
    pub(super) fn replace(&mut self, news: Vec<(usize, Footprint)>) -> Vec<usize> {
        let mut reshaped = Vec::new();
        for (place, footprint) in news {
            if self.footprints.len() <= place {
                self.footprints.resize_with(place + 1, Footprint::default);
                reshaped.push(place);
            }
            let Some(old) = self.footprints.get_mut(place) else { continue };
            if old.shape != footprint.shape && reshaped.last() != Some(&place) {
                reshaped.push(place);
            }
            *old = footprint;
        }
        let things = |(place, footprint): (u32, &Footprint)| {
            footprint.things.iter().map(move |&thing| (thing, place)).collect::<Vec<_>>()
        };
        self.owners = (0..).zip(&self.footprints).flat_map(things).collect();
        self.owners.sort_unstable();
        let missing = |(place, footprint): (usize, &Footprint)| footprint.shape.is_none().then_some(place);
        self.missing = self.footprints.iter().enumerate().filter_map(missing).collect();
        reshaped
    }

    /// The oids of one kind, each once.
    pub(super) fn oids(&self, kind: Kind) -> Vec<u32> {
        let mut oids: Vec<u32> =
            self.owners.iter().filter(|(thing, _)| thing.kind == kind).map(|(thing, _)| thing.oid).collect();
        oids.dedup();
        oids
    }

    /// Schemas and names of the tables that are not there.
    pub(super) fn missing<'a>(&self, tables: &'a [TableName]) -> (Vec<&'a str>, Vec<&'a str>) {
        let missing = self.missing.iter().filter_map(|place| tables.get(*place));
        missing.map(|table| (table.schema.as_str(), table.name.as_str())).unzip()
    }

    /// The places of the tables that `touched` concerns, in order.
    pub(super) fn places(&self, touched: &Touched) -> Vec<usize> {
        let mut places: Vec<usize> = Vec::new();
        for thing in &touched.things {
            let first = self.owners.partition_point(|(owned, _)| owned < thing);
            let owners = self.owners.iter().skip(first).take_while(|(owned, _)| owned == thing);
            places.extend(owners.filter_map(|(_, place)| usize::try_from(*place).ok()));
        }
        let found = touched.found.iter().filter_map(|place| usize::try_from(place - 1).ok());
        places.extend(found.filter_map(|place| self.missing.get(place)));
        places.sort_unstable();
        places.dedup();
        places
    }
}

//! Remembers what the last look showed, so that the next one describes only what has changed since.

use super::tables::Footprint;
use crate::types::table::TableName;

/// A row of the catalogue, identified by its oid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Thing {
    pub(super) kind: Kind,
    pub(super) oid: u32,
}

/// What the oid identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A table, a member of its tree, or a composite type, with its columns.
    Class,
    /// The table's entry in the publication, or its schema's.
    Entry,
    /// An index of its replica identity.
    Index,
    /// An enum of a column.
    Enum,
    /// A relation without an index for its replica identity.
    Bare,
    /// A table without an entry of its own in the publication.
    Unentered,
}

/// All tables as they were at the last look.
#[derive(Debug, Default)]
pub(super) struct Known {
    footprints: Vec<Footprint>,
    /// Everything in the footprints with the place of its table, sorted.
    owners: Vec<(Thing, u32)>,
    /// The places of tables that do not exist.
    missing: Vec<usize>,
}

/// What may have changed since, as the server reports it.
pub(super) struct Touched {
    pub(super) things: Vec<Thing>,
    /// Places within [`Known::missing`], counted from 1.
    pub(super) found: Vec<i64>,
}

impl Known {
    /// Replaces the footprints at the given places. Returns the places whose shape has changed.
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

    /// Schemas and names of the tables that do not exist.
    pub(super) fn missing<'a>(&self, tables: &'a [TableName]) -> (Vec<&'a str>, Vec<&'a str>) {
        let missing = self.missing.iter().filter_map(|place| tables.get(*place));
        missing.map(|table| (table.schema.as_str(), table.name.as_str())).unzip()
    }

    /// The places of the tables that `touched` concerns, sorted.
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

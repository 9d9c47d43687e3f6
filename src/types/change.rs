//! A changed row as pgoutput reports it: its table, the old row and the new row.

/// How much of an old row Postgres logs (`REPLICA IDENTITY`, `pg_class.relreplident`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key's columns; nothing if there is no primary key.
    #[default]
    Default,
    /// Nothing.
    Nothing,
    /// Every column.
    Full,
    /// The columns of one unique index.
    Index,
}

/// One published column of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The catalogue's name, unquoted.
    pub name: String,
    /// `pg_type.oid`.
    pub type_oid: u32,
    /// Whether the column is part of the replica identity.
    pub in_identity: bool,
}

/// A table as it was when the change was written (pgoutput's Relation message).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`; that of the root if the publication publishes via the partition root.
    pub oid: u32,
    /// Schema name, unquoted.
    pub schema: String,
    /// Table name, unquoted.
    pub name: String,
    /// What old rows hold.
    pub identity: ReplicaIdentity,
    /// Published columns, in the order of a row's cells.
    pub columns: Vec<Column>,
}

impl Relation {
    /// Whether old rows always hold the column's value.
    pub fn carries(&self, column: &Column) -> bool {
        column.in_identity || self.identity == ReplicaIdentity::Full
    }

    /// This relation, narrowed to what its old rows hold when the partition `leaf` writes them: a partition has its own
    /// replica identity. Postgres still sends such rows in the root's layout and marked with the root's identity. So an
    /// [`OldImage::Full`] may lack values, which look like NULLs.
    #[must_use]
    pub fn as_written_by(&self, leaf: &Relation) -> Relation {
        let logged = |name: &str| leaf.columns.iter().any(|column| column.name == name && leaf.carries(column));
        let narrow = |column: &Column| {
            let in_identity = self.carries(column) && logged(&column.name);
            Column { in_identity, ..column.clone() }
        };
        let columns: Vec<Column> = self.columns.iter().map(narrow).collect();
        let whole = columns.iter().all(|column| column.in_identity);
        let identity = match self.identity {
            // The columns' `in_identity` says which values are present.
            ReplicaIdentity::Full if !whole => ReplicaIdentity::Index,
            identity => identity,
        };
        Relation { identity, columns, ..self.clone() }
    }
}

/// Marks a [`Cell::Cut`] in a row's layout. Postgres itself never writes this byte there.
pub const CUT: u8 = b'x';

/// One value of a row, in Postgres's text output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL; in an [`OldImage::Key`], outside the identity, also "not sent".
    Null,
    /// A TOASTed value that the UPDATE left unchanged; it is not in the log.
    Unchanged,
    /// A value that was too large to hold and that pgoutput's sieve left out.
    Cut,
    /// The text of the type's output function, in UTF-8 if the database's encoding allows.
    Text(&'a [u8]),
}

/// The cells of one row, borrowed from the wire; the decoder has checked them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    count: u16,
    cells: &'a [u8],
}

impl<'a> Row<'a> {
    /// `cells` holds `count` cells in pgoutput's TupleData layout (Postgres manual, "Logical Replication Message
    /// Formats"). The decoder checks them first; unchecked ones read as fewer cells, never as a panic.
    pub fn new(count: u16, cells: &'a [u8]) -> Self {
        Row { count, cells }
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether the row has no cells.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The cell at `index`, or `None` past the last cell.
    pub fn get(&self, index: usize) -> Option<Cell<'a>> {
        self.cells().nth(index)
    }

    /// All cells, first to last.
    pub fn cells(&self) -> Cells<'a> {
        Cells { left: self.count, rest: self.cells }
    }
}

/// Encodes a row's values in the layout that [`Row::new`] reads, and replaces the contents of `out`; `None` is NULL. Returns
/// the number of cells, or `None` if there are more than a row can have, or a value is too long.
pub fn encode_row<T: AsRef<[u8]>>(values: impl IntoIterator<Item = Option<T>>, out: &mut Vec<u8>) -> Option<u16> {
    out.clear();
    let mut count: u16 = 0;
    for value in values {
        count = count.checked_add(1)?;
        match value {
            None => out.push(b'n'),
            Some(text) => {
                out.push(b't');
                out.extend(u32::try_from(text.as_ref().len()).ok()?.to_be_bytes());
                out.extend_from_slice(text.as_ref());
            }
        }
    }
    Some(count)
}

/// Iterator over the cells of a [`Row`].
#[derive(Debug, Clone)]
pub struct Cells<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        match kind {
            b'n' => Some(Cell::Null),
            b'u' => Some(Cell::Unchanged),
            &CUT => Some(Cell::Cut),
            b't' => {
                let (length, rest) = self.rest.split_first_chunk::<4>()?;
                let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                self.rest = rest;
                Some(Cell::Text(value))
            }
            _ => None,
        }
    }
}

/// What an UPDATE or DELETE logs of the old row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldImage<'a> {
    /// Nothing: the UPDATE left every identity column unchanged.
    Absent,
    /// Only the identity's columns hold values; the others are `Null`, which means nothing.
    Key(Row<'a>),
    /// Every published column. Outside the identity, which a partition may have narrowed, `Null` means nothing.
    Full(Row<'a>),
}

/// One changed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A new row.
    Insert {
        /// The row.
        new: Row<'a>,
    },
    /// A changed row.
    Update {
        /// The row before.
        old: OldImage<'a>,
        /// The row after.
        new: Row<'a>,
    },
    /// A deleted row.
    Delete {
        /// The row before; never [`OldImage::Absent`].
        old: OldImage<'a>,
    },
}

//! The setup of one cell: how readers read, what the daemon does, what may happen, and which mechanism is broken on
//! purpose.

/// How readers use the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// GET; on a miss, read the database and SET.
    Plain,
    /// GET returns a lease on a miss. The reader can store its value only while the lease exists.
    Lease,
    /// The reader gets the pointer before it reads the database, and stores the value under the pointer's value.
    Pointer(Pointer),
}

/// How an invalidation moves a version pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointer {
    /// To a value that it never had. A pointer that was evicted also returns with such a value.
    Advances,
    /// To the position of the commit, unless it is already there.
    ToCommit,
}

/// When the daemon invalidates. The core is always the same; its inputs differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// As soon as the commit is decoded: the source always answers that it is visible, and no replica is listed.
    AtDecode,
    /// Once, when the commit is visible and every replica has replayed it: the source does not show it earlier, and no
    /// replica is listed.
    Once,
    /// When it is visible, and again when every replica has replayed it. coherd does this.
    Twice,
}

/// The server that the daemon follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Primary,
    /// The replica.
    Standby,
}

/// Where readers may read on a cache miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    Primary,
    Replica,
    Both,
}

/// One removed mechanism: the core's inputs, or the effects of its outputs, are wrong in this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The first invalidation does not wait until the commit is visible.
    NoGate,
    /// The first invalidation settles, whatever the replica has replayed.
    NoReplicaPass,
    /// The slot is acknowledged up to what is decoded.
    AcknowledgesEarly,
    /// The key is deleted first, its lease a moment later.
    LeaseAfterKey,
    /// The key is deleted and its lease stays.
    LeaseStays,
    /// An evicted pointer starts from the bottom again.
    PointerReborn,
    /// The record of a cache that went back in time is not loaded.
    NoRepair,
    /// A record says that the delivery it comes with is settled.
    RecordAheadOfItself,
    /// A cache is reconciled by the record's `applied` position.
    ReconciledByApplied,
    /// The cache overwrites any record without comparing.
    NoComparison,
    /// Nothing is flushed when the daemon waits for a replica again.
    NoFlushOnReturn,
    /// That flush is not repeated after the replica has replayed everything; the daemon trusts the first one.
    OneFlushOnReturn,
    /// A new daemon assumes that the replica has never been away: the record lists every rule.
    ForgetsWhoLeft,
}

/// Without a limit.
pub const FOR_EVER: u8 = u8::MAX;

/// One cell.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether one thing may happen")]
pub struct Setup {
    pub protocol: Protocol,
    pub strategy: Strategy,
    pub source: Source,
    pub reads: Reads,
    /// There is a replica in `replicas:`.
    pub is_listed: bool,
    pub commits: u8,
    pub readers: u8,
    /// The commits change different rows of one key, so that one may be in the log before another is visible.
    pub overlap: bool,
    /// How often the daemon may be killed, at any point.
    pub crashes: u8,
    /// The cache may execute what a dead process had sent at any later time.
    pub strays: bool,
    /// How many faults may happen, at any point: the connection to the cache breaks, an answer says that an
    /// invalidation was refused, or the source's answer is late.
    pub faults: u8,
    /// The cache may drop anything at any point.
    pub evicts: bool,
    /// How often the cache may go back to an earlier state.
    pub rolls_back: u8,
    /// The daemon does not remember its deliveries, so it flushes a cache that goes back.
    pub forgets: bool,
    /// The connection stays open when the cache goes back, as behind a proxy.
    pub silently: bool,
    /// Several deliveries may be in flight.
    pub pipelines: bool,
    /// The stream may break at any point and be opened again.
    pub reopens: bool,
    /// The replica may lag so far that the daemon stops waiting for it.
    pub lags: bool,
    /// The slot may exceed its budget once, so that it goes on without a target that does not keep up.
    pub overspends: bool,
    /// One commit is missing from the stream, because the table was not in the publication. Only the catalogue shows
    /// it.
    pub drifts: bool,
    /// The rule has a second target, which never answers.
    pub other_is_down: bool,
    /// A gap halts the target, until a user flushes the table.
    pub halts: bool,
    /// The daemon invalidates early too. The cache executes an early invalidation at any later time, or never.
    pub early: bool,
    pub broken: Option<Broken>,
}

impl Setup {
    /// The default of every cell: one commit, a listed replica, two readers that read everywhere. The daemon may crash
    /// and the cache may evict.
    pub const fn new(protocol: Protocol, strategy: Strategy) -> Setup {
        Setup {
            protocol,
            strategy,
            source: Source::Primary,
            reads: Reads::Both,
            is_listed: true,
            commits: 1,
            readers: 2,
            overlap: true,
            crashes: FOR_EVER,
            strays: true,
            faults: 0,
            evicts: true,
            rolls_back: 0,
            forgets: false,
            silently: false,
            pipelines: false,
            reopens: false,
            lags: false,
            overspends: false,
            drifts: false,
            other_is_down: false,
            halts: false,
            early: false,
            broken: None,
        }
    }

    pub const fn broken(self, broken: Broken) -> Setup {
        Setup { broken: Some(broken), ..self }
    }

    pub fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Whether the source says that every commit is visible.
    pub fn is_ungated(&self) -> bool {
        self.strategy == Strategy::AtDecode || self.is(Broken::NoGate)
    }

    /// Whether the daemon knows the replica.
    pub fn is_waited_for(&self) -> bool {
        self.is_listed && self.strategy == Strategy::Twice && !self.is(Broken::NoReplicaPass)
    }
}

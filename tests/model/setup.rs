//! What is modelled in one cell: who reads how, what the daemon does, what may happen, and what is broken on purpose.

/// How readers use the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// GET; where there is nothing, read the database and SET.
    Plain,
    /// GET gives a lease where there is nothing; what was read is stored only while the lease stands.
    Lease,
    /// The pointer is read before the database, and what was read is stored under its value.
    Pointer(Pointer),
}

/// How an invalidation moves a version pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointer {
    /// To a value it never had, each time. One that was evicted comes back as a value it never had, too.
    Advances,
    /// To the position of the commit, unless it is there already.
    ToCommit,
}

/// When the daemon invalidates. The core is always the same; what it is told differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// As soon as the commit is decoded: the source always answers that it is visible, and no replica is listed.
    AtDecode,
    /// Once, when the commit is visible and every replica has replayed it: the source does not show it before, and no
    /// replica is listed.
    Once,
    /// When it is visible, and again when every replica has replayed it. This is what coherd does.
    Twice,
}

/// The server that the daemon follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Primary,
    /// The replica.
    Standby,
}

/// Where readers may read what the cache does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    Primary,
    Replica,
    Both,
}

/// One mechanism, taken away: what the core is told, or what becomes of what it says, is wrong in this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The first invalidation does not wait until the commit is visible.
    NoGate,
    /// The first invalidation settles, whatever the replica has replayed.
    NoReplicaPass,
    /// The slot is acknowledged up to what is decoded.
    AcknowledgesEarly,
    /// The key goes first and its lease a moment later.
    LeaseAfterKey,
    /// The key goes and its lease stands.
    LeaseStays,
    /// A pointer that was evicted begins from the bottom again.
    PointerReborn,
    /// A cache that went back in time is not asked what it remembers.
    NoRepair,
    /// A record says that what it comes with is settled.
    RecordAheadOfItself,
    /// A cache is reconciled by what its record says was sent.
    ReconciledByApplied,
    /// The cache writes a record over whatever it holds.
    NoComparison,
    /// Nothing is flushed for a replica that is waited for again.
    NoFlushOnReturn,
    /// What is flushed for it is not flushed again when it has replayed everything: it is believed to have done so.
    OneFlushOnReturn,
    /// A daemon that begins takes it that a replica has never been away: the record lists every rule.
    ForgetsWhoLeft,
}

/// However many times.
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
    /// The daemon may be killed at any point, so many times.
    pub crashes: u8,
    /// What a process had sent when it died may be carried out at any point after.
    pub strays: bool,
    /// The connection to the cache may break at any point, an answer may say that an invalidation was refused, and that of
    /// the source may be late: so many times.
    pub faults: u8,
    /// The cache may drop anything at any point.
    pub evicts: bool,
    /// The cache may go back to one earlier state, so many times.
    pub rolls_back: u8,
    /// The daemon has no memory of what it sent, so a cache that goes back is flushed.
    pub forgets: bool,
    /// The connection to it stays then, behind a proxy.
    pub silently: bool,
    /// Several deliveries may be in flight.
    pub pipelines: bool,
    /// The stream may break at any point, and be opened again.
    pub reopens: bool,
    /// The replica may be so far behind that it is not waited for.
    pub lags: bool,
    /// The slot may hold back too much log once, so that it goes on without a target that does not keep up.
    pub overspends: bool,
    /// One commit is not in the stream, because the publication had left the table out: only the catalogue shows it.
    pub drifts: bool,
    /// The rule goes to a second target too, which never answers.
    pub other_is_down: bool,
    /// A gap halts the target, until somebody flushes the table manually.
    pub halts: bool,
    pub broken: Option<Broken>,
}

impl Setup {
    /// What every cell begins from: one commit, a listed replica, two readers who read everywhere; the daemon may crash
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
            broken: None,
        }
    }

    pub const fn broken(self, broken: Broken) -> Setup {
        Setup { broken: Some(broken), ..self }
    }

    pub fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Whether the source says of every commit that it is visible.
    pub fn is_ungated(&self) -> bool {
        self.strategy == Strategy::AtDecode || self.is(Broken::NoGate)
    }

    /// Whether the daemon knows of the replica.
    pub fn is_waited_for(&self) -> bool {
        self.is_listed && self.strategy == Strategy::Twice && !self.is(Broken::NoReplicaPass)
    }
}

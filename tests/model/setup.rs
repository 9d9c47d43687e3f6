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

/// How a strike moves a version pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointer {
    /// To a value it never had, each time. One that was evicted comes back as a value it never had, too.
    Advances,
    /// To the position of the commit, unless it is there already.
    ToCommit,
}

/// When the daemon strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// As soon as the commit is decoded.
    AtDecode,
    /// Once, when the commit is visible and every replica has replayed it.
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

/// One mechanism of the daemon, taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The first strike does not wait until the commit is visible.
    NoGate,
    /// The first strike settles, whatever the replica has replayed.
    NoSecondStrike,
    /// The slot is acknowledged when the first strike is confirmed.
    AcknowledgesEarly,
    /// The key goes first and its lease a moment later.
    LeaseAfterKey,
    /// The key goes and its lease stands.
    LeaseStays,
    /// A pointer that was evicted begins from the bottom again.
    PointerReborn,
    /// A cache that went back in time is not asked what it remembers.
    NoHealing,
    /// A record says that what it comes with is settled.
    RecordVouchesForItself,
    /// After a start, a cache is judged by what its record says was sent, and the slot is acknowledged up to there.
    JudgedByApplied,
    /// Nothing is flushed for a replica that is waited for again.
    NoFlushOnReturn,
    /// What is flushed for it is not flushed again when it has replayed everything.
    OneFlushOnReturn,
    /// A daemon that begins takes it that a replica has never been away.
    ForgetsWhoLeft,
}

/// One cell.
#[derive(Debug, Clone, Copy)]
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
    /// The daemon may be killed at any point.
    pub crashes: bool,
    /// What a process had sent when it died may be carried out at any point after.
    pub strays: bool,
    /// The connection to the cache may break at any point, and an answer may say that a strike was refused.
    pub faults: bool,
    /// The cache may drop anything at any point.
    pub evicts: bool,
    /// The cache may go back to an earlier state, once.
    pub rolls_back: bool,
    /// The replica may be so far behind that it is not waited for.
    pub lags: bool,
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
            crashes: true,
            strays: true,
            faults: false,
            evicts: true,
            rolls_back: false,
            lags: false,
            broken: None,
        }
    }

    pub const fn broken(self, broken: Broken) -> Setup {
        Setup { broken: Some(broken), ..self }
    }

    pub fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Whether records are judged by what was sent.
    pub fn by_applied(&self) -> bool {
        self.is(Broken::JudgedByApplied) || self.is(Broken::AcknowledgesEarly)
    }

    /// Whether commits are struck without asking who sees them.
    pub fn is_ungated(&self) -> bool {
        self.strategy == Strategy::AtDecode || self.is(Broken::NoGate)
    }

    /// Whether the first strike is the last.
    pub fn strikes_once(&self) -> bool {
        self.strategy == Strategy::AtDecode || self.is(Broken::NoSecondStrike)
    }
}

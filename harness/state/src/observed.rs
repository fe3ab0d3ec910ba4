//! What captures can show of a deploy, kind by kind.

/// A kind of observation. Reports have a code of the same name for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Observed {
    /// Something changed, and the tool said so.
    RealChange,
    /// Something changed, and the tool did not say so.
    SilentChange,
    /// Two operations undid each other.
    FlipFlop,
    /// A service or the machine began anew.
    Disruptive,
    /// A job ran once more.
    UnitRan,
    /// A unit runs with something older than the disk has.
    Stale,
    /// Files were written with the content that they had.
    Rewrite,
    /// A new file was left where anybody may remove it.
    LeftBehind,
    /// A change was reported, and none of what was compared changed.
    FalseChange,
    /// A part of the state could not be read whole.
    Incomplete,
    /// Parts of databases were not compared.
    NotCompared,
    /// What changes by itself was not measured.
    NoControl,
    /// After a cut and another deploy the machine is another one.
    ResumeDiffers,
    /// After a cut a service was not restarted.
    LostRestart,
}

/// What an observation does to a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Weight {
    /// Worth knowing.
    Info,
    /// Worth mending.
    Warning,
    /// The question stays open.
    Unknown,
    /// The second deploy was not without effect.
    Fails,
}

impl Observed {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::RealChange,
        Self::SilentChange,
        Self::FlipFlop,
        Self::Disruptive,
        Self::UnitRan,
        Self::Stale,
        Self::Rewrite,
        Self::LeftBehind,
        Self::FalseChange,
        Self::Incomplete,
        Self::NotCompared,
        Self::NoControl,
        Self::ResumeDiffers,
        Self::LostRestart,
    ];

    /// How much it weighs.
    pub fn weight(self) -> Weight {
        match self {
            Self::UnitRan | Self::Rewrite | Self::NotCompared => Weight::Info,
            Self::FalseChange | Self::LeftBehind => Weight::Warning,
            Self::Incomplete | Self::NoControl => Weight::Unknown,
            Self::RealChange
            | Self::SilentChange
            | Self::FlipFlop
            | Self::Disruptive
            | Self::Stale
            | Self::ResumeDiffers
            | Self::LostRestart => Weight::Fails,
        }
    }
}

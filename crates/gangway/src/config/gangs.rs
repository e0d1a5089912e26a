//! What is shown of gangs: the `gangs` section, as `gangway scheduler` and `gangway extender` read it.

use super::section::Section;

/// What is shown of gangs beside conditions and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gangs {
    /// `Gang` objects are written where the API server serves them, and Slurm is asked what would help those
    /// that wait.
    pub(crate) show: bool,
    /// Also of pods that are gangs of one.
    pub(crate) singles: bool,
}

pub(crate) fn read(mut section: Section<'_>) -> Gangs {
    let show = section.flag("show").unwrap_or(true);
    let singles = section.flag("singles").unwrap_or(false);
    section.finish();
    Gangs { show, singles }
}

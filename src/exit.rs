//! The exit codes, for scripts and service managers.

use std::process::ExitCode;

/// How the program ends. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; for `run`: asked to stop, and drained.
    Done,
    /// 1: it failed, and says why; trying again alone does not help.
    Failed,
    /// 70: `run` gave up after too many restarts of its actors: to be started anew.
    Escalated,
    /// 75: the queue cannot be reached: to be tried again later.
    Unavailable,
}

/// 2 is the command line parser's: a command line that cannot be understood.
impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Escalated => 70,
            Exit::Unavailable => 75,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

//! Every point at which a worker can be killed, by name, from the code itself: what a journal can be
//! told, what a store can be asked, what a server can be asked. A new kind of any of them does not
//! compile here until it has a name, and fails the suite until a play kills a worker there.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, Request};
use steadfast_core::classify::github::Operation;
use steadfast_core::effect::EffectKey;
use steadfast_core::end::EndStatus;
use steadfast_core::journal::Event;
use steadfast_store::Requeue;

/// A function from a kind to its name, and the list of all names.
macro_rules! names {
    ($(#[$doc:meta])* fn $name:ident($of:ty), $all:ident, $($pattern:pat => $text:literal,)*) => {
        $(#[$doc])*
        pub fn $name(of: $of) -> &'static str {
            match of { $($pattern => $text,)* }
        }
        const $all: &[&str] = &[$($text,)*];
    };
}

names! {
    /// A journal write: the event, and whether the workspace's patch goes with it.
    fn event((&Event, bool)), EVENTS,
    (Event::Started { .. }, _) => "append started",
    (Event::ModelAnswered { .. }, _) => "append model_answered",
    (Event::ContextTooLong, _) => "append context_too_long",
    (Event::ToolStarted { .. }, _) => "append tool_started",
    (Event::ToolFinished { .. }, false) => "append tool_finished",
    (Event::ToolFinished { .. }, true) => "append tool_finished with the patch",
    (Event::EffectAnnounced { key: EffectKey::Progress }, _) => "append effect_announced progress",
    (Event::EffectAnnounced { key: EffectKey::Comment(_) }, _) => "append effect_announced comment",
    (Event::EffectAnnounced { key: EffectKey::Branch }, _) => "append effect_announced branch",
    (Event::EffectAnnounced { key: EffectKey::PullRequest }, _) => "append effect_announced pull request",
    (Event::EffectConfirmed { key: EffectKey::Progress, .. }, _) => "append effect_confirmed progress",
    (Event::EffectConfirmed { key: EffectKey::Comment(_), .. }, _) => "append effect_confirmed comment",
    (Event::EffectConfirmed { key: EffectKey::Branch, .. }, _) => "append effect_confirmed branch",
    (Event::EffectConfirmed { key: EffectKey::PullRequest, .. }, _) => "append effect_confirmed pull request",
    (Event::NothingToPublish, _) => "append nothing_to_publish",
    (Event::ChangeRefused { .. }, _) => "append change_refused",
    (Event::Ended { .. }, _) => "append ended",
    (Event::Reopened, _) => "append reopened",
}

/// A call to the store that may change something, other than a journal write.
pub enum Transition<'a> {
    Submit,
    Claim,
    ClaimCalledOff,
    Renew,
    Park,
    Requeue(&'a Requeue),
    Release,
    Settle(EndStatus),
    Cancel,
    Retry,
    Pause,
    Resume,
    Purge,
}

names! {
    /// A transition.
    fn transition(&Transition<'_>), TRANSITIONS,
    Transition::Submit => "submit",
    Transition::Claim => "claim",
    Transition::ClaimCalledOff => "claim_called_off",
    Transition::Renew => "renew",
    Transition::Park => "park",
    Transition::Requeue(Requeue::Failed { .. }) => "requeue failed",
    Transition::Requeue(Requeue::Crashed { .. }) => "requeue crashed",
    Transition::Release => "release",
    Transition::Settle(EndStatus::Completed) => "settle completed",
    Transition::Settle(EndStatus::Failed) => "settle failed",
    Transition::Settle(EndStatus::Cancelled) => "settle cancelled",
    Transition::Cancel => "cancel",
    Transition::Retry => "retry",
    Transition::Pause => "pause",
    Transition::Resume => "resume",
    Transition::Purge => "purge",
}

/// A request to a server: of the model, or of GitHub.
pub enum Asked {
    Chat,
    Github(Operation),
}

names! {
    /// A request.
    fn asked(&Asked), REQUESTS,
    Asked::Chat => "POST chat",
    Asked::Github(Operation::CreateToken) => "POST create_token",
    Asked::Github(Operation::RevokeToken) => "DELETE revoke_token",
    Asked::Github(Operation::App) => "GET app",
    Asked::Github(Operation::User) => "GET user",
    Asked::Github(Operation::Repository) => "GET repository",
    Asked::Github(Operation::FindComment) => "GET find_comment",
    Asked::Github(Operation::CreateComment) => "POST create_comment",
    Asked::Github(Operation::UpdateComment) => "PATCH update_comment",
    Asked::Github(Operation::BranchHead) => "GET branch_head",
    Asked::Github(Operation::FindPull) => "GET find_pull",
    Asked::Github(Operation::CreatePull) => "POST create_pull",
}

/// Requests that no run makes: `branch_head` is the client's for others.
const OF_NO_RUN: &[&str] = &["GET branch_head"];

/// What git asks of the remote; the names are written by [`super::line::GIT`].
const GIT: &[&str] = &["git fetch", "git ls_remote", "git push"];

/// Before it, or when it is done and nobody was told.
pub const BEFORE: &str = "before";
pub const UNHEARD: &str = "done, unheard";
/// When the answer was heard, before anything is done with it.
pub const HEARD: &str = "heard";

/// The name of a point.
pub fn point(what: &str, side: &str) -> String {
    format!("{what} / {side}")
}

/// All points that there are.
pub fn all() -> BTreeSet<String> {
    let done = [EVENTS, TRANSITIONS, GIT].concat();
    let two = done.iter().flat_map(|what| [BEFORE, UNHEARD].map(|side| point(what, side)));
    let sent = REQUESTS.iter().filter(|what| !OF_NO_RUN.contains(what));
    let three = sent.flat_map(|what| [BEFORE, UNHEARD, HEARD].map(|side| point(what, side)));
    two.chain(three).collect()
}

/// What a request asks. One that is not known here has no name, and fails the play.
pub fn what_is_asked(request: &Request<Bytes>) -> Asked {
    let path = request.uri().path();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let operation = match (request.method(), segments.as_slice()) {
        (&Method::POST, ["v1", "chat", "completions"]) => return Asked::Chat,
        (&Method::POST, ["app", "installations", _, "access_tokens"]) => Operation::CreateToken,
        (&Method::DELETE, ["installation", "token"]) => Operation::RevokeToken,
        (&Method::GET, ["app"]) => Operation::App,
        (&Method::GET, ["user"] | ["users", _]) => Operation::User,
        (&Method::GET, ["repos", _, _]) => Operation::Repository,
        (&Method::GET, ["repos", _, _, "issues", _, "comments"]) => Operation::FindComment,
        (&Method::POST, ["repos", _, _, "issues", _, "comments"]) => Operation::CreateComment,
        (&Method::PATCH, ["repos", _, _, "issues", "comments", _]) => Operation::UpdateComment,
        (&Method::GET, ["repos", _, _, "branches" | "commits" | "git", ..]) => Operation::BranchHead,
        (&Method::GET, ["repos", _, _, "pulls"]) => Operation::FindPull,
        (&Method::POST, ["repos", _, _, "pulls"]) => Operation::CreatePull,
        (method, _) => panic!("{method} {path} has no name among the crash points"),
    };
    Asked::Github(operation)
}

//! What the runner says to the model. Each says what is the matter and what to do now.

use steadfast_core::effect::EffectOutcome;

/// The result of a call that was running when its process died. It is not run again behind the
/// model's back.
pub fn interrupted_output() -> String {
    "interrupted: the runner was stopped while this ran. It is not known whether it took effect. Look at \
     the state of the files before you repeat it."
        .into()
}

/// The result of `comment_on_issue` once the comment stands.
pub fn comment_output(outcome: &EffectOutcome) -> String {
    match outcome {
        EffectOutcome::Comment { url, .. } => format!("commented: {url}"),
        EffectOutcome::Branch { .. } | EffectOutcome::PullRequest { .. } => "commented".into(),
    }
}

pub(super) fn go_on() -> String {
    "Your answer was cut off because it was too long. Go on from where it ended, with a tool call. Write long \
     files in several steps."
        .into()
}

pub(super) fn filtered() -> String {
    "Your answer was stopped by the provider's content filter. Go on with the task in other words, with a \
     tool call."
        .into()
}

pub(super) fn empty() -> String {
    "Your answer was empty. Go on with a tool call; if the work is done, call finish with a summary.".into()
}

pub(super) fn no_tool_call(left: u32) -> String {
    let warning = match left {
        0 => " If the next answer has no tool call either, the job ends as failed.",
        _ => "",
    };
    format!(
        "Your answer had no tool call, so nothing was done. Nobody reads along and nobody can answer \
         questions. Go on with a tool call; if the work is done, call finish with a summary.{warning}"
    )
}

pub(super) fn turns_left(left: u32) -> String {
    match left {
        1 => "this is your last answer: call finish now, with a summary of what stands and what is missing"
            .into(),
        _ => format!("{left} answers are left: bring the work to an end, then call finish"),
    }
}

pub(super) fn budget_nearly_spent(what: &str) -> String {
    format!("the job's limit of {what} is nearly reached: bring the work to an end now, then call finish")
}

pub(super) fn repeated(times: u32) -> String {
    format!(
        "this is the same call with the same result for time {times}: repeating it will not help. Try \
         something else, or call finish and say what is in the way. If it comes again, the job ends"
    )
}

pub(super) fn too_many_calls(most: u32) -> String {
    format!("not run: at most {most} calls of one answer are run. Call it again if it is still needed.")
}

pub(super) fn after_finish() -> String {
    "not run: finish came before it in the same answer.".into()
}

pub(super) fn cut_call() -> &'static str {
    "\nYour answer was cut off because it was too long: put less into one call, and write long files in \
     several steps."
}

pub(super) fn no_issue() -> String {
    "not done: this job belongs to no issue. Put what you have to say into the summary of finish.".into()
}

pub(super) fn too_many_comments(most: u32) -> String {
    format!("not done: at most {most} comments a job. Put what you have to say into the summary of finish.")
}

pub(super) fn change_refused(why: &str) -> String {
    format!(
        "not published, because the change must not be pushed as it is: {why}\nMend it, then call finish."
    )
}

pub(super) fn checks_fail(failures: &str) -> String {
    format!(
        "not published yet: checks that passed before your changes fail now. Mend it, then call finish. If it \
         cannot be mended, call finish again and say why; it is then published with a note.\n\n{failures}"
    )
}

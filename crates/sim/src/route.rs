//! From a method and a path to what is asked. GitHub answers at the root and under `/api/v3`.

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::faults::Operation;
use crate::github::{GitCall, GithubCall, RepoName};

/// What a request asks for.
pub(crate) enum Route {
    Chat,
    Models(Option<String>),
    Github(GithubCall),
    Git(GitCall),
    /// The simulation's own pages under `/_sim`.
    Admin(Vec<String>),
    Nowhere,
}

impl Route {
    pub(crate) fn parse(method: &Method, uri: &Uri) -> Route {
        let decoded: Vec<String> = uri
            .path()
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let segments: Vec<&str> = decoded.iter().map(String::as_str).collect();
        match (method.as_str(), segments.as_slice()) {
            (_, ["_sim", rest @ ..]) => Route::Admin(rest.iter().map(|s| (*s).to_owned()).collect()),
            ("POST", ["v1", "chat", "completions"]) => Route::Chat,
            ("GET", ["v1", "models"]) => Route::Models(None),
            ("GET", ["v1", "models", name @ ..]) => Route::Models(Some(name.join("/"))),
            (_, ["v1", ..]) => Route::Nowhere,
            (_, ["api", "v3", rest @ ..]) => Route::Github(github(method, rest)),
            (method, [owner, name, rest @ ..]) if *owner != "repos" && is_git(method, rest) => {
                Route::Git(git(uri, owner, name, rest))
            }
            (_, rest) => Route::Github(github(method, rest)),
        }
    }

    pub(crate) fn operation(&self) -> Operation {
        match self {
            Route::Chat => Operation::Chat,
            Route::Models(_) => Operation::Models,
            Route::Github(call) => call.operation(),
            Route::Git(call) if call.push => Operation::GitPush,
            Route::Git(_) => Operation::GitFetch,
            Route::Admin(_) | Route::Nowhere => Operation::Unknown,
        }
    }
}

fn is_git(method: &str, rest: &[&str]) -> bool {
    matches!(
        (method, rest),
        ("GET", ["info", "refs"]) | ("POST", ["git-upload-pack"]) | ("POST", ["git-receive-pack"])
    )
}

fn git(uri: &Uri, owner: &str, name: &str, rest: &[&str]) -> GitCall {
    let query = uri.query().unwrap_or_default();
    let push = rest == ["git-receive-pack"] || query.contains("service=git-receive-pack");
    GitCall {
        repo: RepoName { owner: owner.to_owned(), name: name.trim_end_matches(".git").to_owned() },
        rest: rest.join("/"),
        query: query.to_owned(),
        push,
        advertises: rest == ["info", "refs"],
    }
}

fn github(method: &Method, segments: &[&str]) -> GithubCall {
    use GithubCall as Call;
    let number = |text: &str| text.parse::<u64>().ok();
    match (method.as_str(), segments) {
        ("GET", ["app"]) => Call::App,
        ("GET", ["app", "installations"]) => Call::Installations,
        ("GET", ["app", "installations", id]) => number(id).map_or(Call::Unknown, Call::Installation),
        ("POST", ["app", "installations", id, "access_tokens"]) => {
            number(id).map_or(Call::Unknown, Call::TokenCreate)
        }
        ("DELETE", ["installation", "token"]) => Call::TokenRevoke,
        ("GET", ["installation", "repositories"]) => Call::InstallationRepos,
        ("GET", ["users", login]) => Call::User((*login).to_owned()),
        ("GET", ["user"]) => Call::Me,
        ("GET", ["rate_limit"]) => Call::RateLimit,
        (verb, ["repos", owner, name, rest @ ..]) => {
            let repo = RepoName { owner: (*owner).to_owned(), name: (*name).to_owned() };
            in_repo(verb, repo, rest)
        }
        _ => Call::Unknown,
    }
}

fn in_repo(method: &str, repo: RepoName, rest: &[&str]) -> GithubCall {
    use GithubCall as Call;
    let number = |text: &str| text.parse::<u64>().ok();
    match (method, rest) {
        ("GET", []) => Call::Repo(repo),
        ("GET", ["installation"]) => Call::RepoInstallation(repo),
        (verb, ["issues", "comments", id]) => match (verb, number(id)) {
            ("GET", Some(id)) => Call::CommentGet(repo, id),
            ("PATCH", Some(id)) => Call::CommentEdit(repo, id),
            ("DELETE", Some(id)) => Call::CommentDelete(repo, id),
            _ => Call::Unknown,
        },
        ("GET", ["issues", id]) => number(id).map_or(Call::Unknown, |id| Call::Issue(repo, id)),
        (verb, ["issues", id, "comments"]) => match (verb, number(id)) {
            ("GET", Some(id)) => Call::CommentList(repo, id),
            ("POST", Some(id)) => Call::CommentCreate(repo, id),
            _ => Call::Unknown,
        },
        ("GET", ["git", "ref" | "refs", "heads", name @ ..]) if !name.is_empty() => {
            Call::RefGet(repo, name.join("/"))
        }
        ("GET", ["git", "matching-refs", "heads", name @ ..]) => Call::RefList(repo, name.join("/")),
        ("POST", ["git", "refs"]) => Call::RefCreate(repo),
        ("PATCH", ["git", "refs", "heads", name @ ..]) if !name.is_empty() => {
            Call::RefUpdate(repo, name.join("/"))
        }
        ("DELETE", ["git", "refs", "heads", name @ ..]) if !name.is_empty() => {
            Call::RefDelete(repo, name.join("/"))
        }
        ("GET", ["branches"]) => Call::BranchList(repo),
        ("GET", ["branches", name @ ..]) => Call::BranchGet(repo, name.join("/")),
        ("GET", ["commits", rev @ ..]) if !rev.is_empty() => Call::Commit(repo, rev.join("/")),
        ("GET", ["git", "commits", sha]) => Call::GitCommit(repo, (*sha).to_owned()),
        ("GET", ["compare", range @ ..]) => match range.join("/").split_once("...") {
            Some((base, head)) => Call::Compare(repo, base.to_owned(), head.to_owned()),
            None => Call::Unknown,
        },
        ("GET", ["pulls"]) => Call::PullList(repo),
        ("POST", ["pulls"]) => Call::PullCreate(repo),
        ("GET", ["pulls", id]) => number(id).map_or(Call::Unknown, |id| Call::PullGet(repo, id)),
        ("PATCH", ["pulls", id]) => number(id).map_or(Call::Unknown, |id| Call::PullEdit(repo, id)),
        _ => Call::Unknown,
    }
}

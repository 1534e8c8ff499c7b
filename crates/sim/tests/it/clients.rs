//! Steadfast's own clients and the simulation understand each other, though neither knows the other.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;
use serde_json::json;
use steadfast_core::chat::{FinishReason, Message, ModelRequest, ToolSpec};
use steadfast_core::failure::Verdict;
use steadfast_github::{Credentials, GithubClient, NewPull, PullState, Repo};
use steadfast_llm::{Endpoint, LlmClient, MaxTokensField, Price, Settings, Temperature, ToolsMode};
use steadfast_sim::{Fault, FaultRule, Operation, SIMULATION_ONLY_PRIVATE_KEY, Target, World};

use crate::support::{push_branch, world};

fn llm(world: &Arc<World>, stream: bool, tools: ToolsMode) -> LlmClient {
    let base_url = "http://sim.test/v1".parse().unwrap();
    let endpoint = Endpoint::new(&base_url, SecretString::from("sk-x")).unwrap();
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let settings = Settings {
        base_url,
        model: "m".to_owned(),
        stream,
        tools,
        max_tokens_field: MaxTokensField::Auto,
        max_answer_tokens: 1000,
        temperature: Temperature::Default,
        timeout: minutes(1),
        answer_timeout: minutes(10),
        max_answer_bytes: ByteSize::mb(1),
        quota_recheck: minutes(15),
        max_server_wait: minutes(60),
        spacing: Duration::ZERO,
        context_window: 128_000,
        price: Price { prompt: 0.0, cached: 0.0, completion: 0.0 },
    };
    LlmClient::new(endpoint, settings, world.transport(), world.clock())
}

fn question() -> ModelRequest {
    let tool = |name: &str| ToolSpec {
        name: name.to_owned(),
        description: "a tool".to_owned(),
        parameters: json!({"type": "object", "properties": {}}),
    };
    ModelRequest {
        messages: vec![
            Message::System { content: "You repair code.".to_owned() },
            Message::User { content: "Title: file_ext should print gz for archive.tar.gz".to_owned() },
        ],
        tools: [tool("read_file"), tool("run_command"), tool("finish")].into(),
        max_answer_tokens: 1000,
    }
}

#[tokio::test(start_paused = true)]
async fn the_llm_client_hears_the_model_in_every_way() {
    let world = world(|config| config.llm.refuse_max_tokens = true);
    let mut calls = Vec::new();
    for stream in [false, true] {
        for tools in [ToolsMode::Native, ToolsMode::Json] {
            let mut request = question();
            // Until it calls a tool it may say what it is about to do.
            let answer = loop {
                let answer = llm(&world, stream, tools).chat(&request).await.result.unwrap();
                if !answer.tool_calls.is_empty() {
                    break answer;
                }
                assert!(request.messages.len() < 4, "{answer:?}");
                request.messages.push(Message::Assistant { content: answer.content, tool_calls: Vec::new() });
                request.messages.push(Message::User { content: "go on".to_owned() });
            };
            assert!(answer.usage.unwrap().prompt_tokens > 0);
            assert!(answer.request_id.is_some());
            if tools == ToolsMode::Native {
                assert_eq!(answer.finish, FinishReason::ToolCalls);
            }
            let call = &answer.tool_calls[0];
            calls.push((call.name.clone(), call.arguments.clone()));
        }
    }
    assert_eq!(calls[0], calls[2]);
    assert_eq!(calls[1], calls[3]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_understood_as_a_wait() {
    let world = world(|config| {
        config.llm.requests_per_minute = Some(1);
        config.llm.limit_kind = steadfast_sim::LimitKind::Fixed;
    });
    let client = llm(&world, false, ToolsMode::Native);
    assert!(client.chat(&question()).await.result.is_ok());
    let failure = client.chat(&question()).await.result.unwrap_err();
    match failure.verdict {
        Verdict::WaitUntil { at, .. } => assert_eq!(at.since(world.now()), Duration::from_secs(60)),
        other => panic!("{other:?}"),
    }
}

fn github_client(world: &Arc<World>) -> GithubClient {
    let settings = steadfast_github::Settings {
        api_url: "http://sim.test/api/v3".parse().unwrap(),
        web_url: "http://sim.test".parse().unwrap(),
        app_id: world.config().github.app_id.to_string(),
        user_agent: "steadfast".to_owned(),
        api_version: "2022-11-28".to_owned(),
        timeout: Duration::from_secs(10),
        write_spacing: Duration::from_secs(1),
        shown_after: Duration::from_secs(5),
        max_server_wait: Duration::from_secs(3600),
        max_body_bytes: ByteSize::mb(8),
        token_margin: Duration::from_secs(300),
        max_pages: 30,
    };
    let credentials = Credentials {
        private_key: Some(SecretString::from(SIMULATION_ONLY_PRIVATE_KEY)),
        personal_token: None,
    };
    GithubClient::new(settings, credentials, world.transport(), world.clock()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_github_client_makes_its_effects_and_finds_them_again() {
    let world = world(|_| {});
    let client = github_client(&world);
    let repo = Repo { owner: "acme".to_owned(), name: "shell-tools".to_owned() };
    let token = client.token(world.config().github.installation_id, &repo, false).await.unwrap();
    let known = client.repository(&token, &repo).await.result.unwrap();
    assert_eq!((known.default_branch.as_str(), known.archived), ("main", false));
    let identity = client.identity(&token).await.result.unwrap();
    let author = identity.login.as_deref();
    assert_eq!(author, Some("steadfast-sim[bot]"));

    let marker = "<!-- steadfast job=x effect=progress -->";
    let comment = client.create_comment(&token, &repo, 3, &format!("hello\n{marker}")).await.result.unwrap();
    let found = client.find_comment(&token, &repo, 3, marker, author).await.result.unwrap();
    assert_eq!(found.unwrap().id, comment.id);
    client.update_comment(&token, &repo, comment.id, &format!("done\n{marker}")).await.result.unwrap();

    assert_eq!(client.branch_head(&token, &repo, "steadfast/issue-3-x").await.result.unwrap(), None);
    push_branch(&world, "steadfast/issue-3-x");
    let head = client.branch_head(&token, &repo, "steadfast/issue-3-x").await.result.unwrap().unwrap();
    let pull = NewPull {
        title: "Mend it".to_owned(),
        body: marker.to_owned(),
        head: "steadfast/issue-3-x".to_owned(),
        base: "main".to_owned(),
        draft: false,
    };
    world.fault(FaultRule::next(Target::Operation(Operation::PullCreate), 1, Fault::DoneButLost));
    let lost = client.create_pull(&token, &repo, &pull).await.result.unwrap_err();
    assert!(matches!(lost.verdict, Verdict::Verify), "{lost:?}");
    let again = client.create_pull(&token, &repo, &pull).await.result.unwrap_err();
    assert!(matches!(again.verdict, Verdict::Verify), "{again:?}");
    let found = client.find_pull(&token, &repo, "steadfast/issue-3-x").await.result.unwrap().unwrap();
    assert_eq!((found.head_sha, found.state), (head, PullState::Open));
    client.revoke(&token).await.result.unwrap();
    let refused = client.repository(&token, &repo).await.result.unwrap_err();
    assert!(matches!(refused.verdict, Verdict::Refresh), "{refused:?}");

    let records = world.records();
    assert_eq!((records.pulls.len(), records.comments.len(), records.max_concurrent_writes), (1, 1, 1));
    assert_eq!(records.comments[0].edits.len(), 1);
    assert!(records.min_write_spacing.unwrap() >= Duration::from_secs(1));
}

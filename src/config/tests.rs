//! What a person sees of a configuration that is right, wrong in one place, or wrong in many.

use std::path::Path;

use super::*;

fn load_text(text: &str) -> Result<Loaded, Problems> {
    load_from(Some((Path::new("c.toml"), text)), [])
}

fn load_env(variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load_from(None, owned.collect::<Vec<_>>())
}

fn problems(text: &str) -> String {
    load_text(text).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_a_configuration() {
    let loaded = load_from(None, []).unwrap();
    assert_eq!(loaded.config.log.format, LogFormat::Auto);
    assert!(loaded.is_default("log.level"));
}

#[test]
fn the_whole_compiled_in_file_can_be_the_users_file() {
    let loaded = load_text(defaults::TEXT).unwrap();
    assert!(!loaded.is_default("log.level"));
}

#[test]
fn everything_wrong_is_told_at_once_with_its_line() {
    let text = "\
[log]
format = \"yaml\"
levle = \"debug\"
level = 5

[logs]
level = \"debug\"
";
    insta::assert_snapshot!(problems(text));
}

#[test]
fn syntax_errors_and_duplicates_have_their_lines() {
    let text = "[log]\nlevel = \"a\"\nlevel = \"b\"\nformat = \n[log]\nx = 1\n";
    insta::assert_snapshot!(problems(text));
}

#[test]
fn the_environment_is_over_the_file_and_is_checked_like_it() {
    let text = "[log]\nlevel = \"warn\"\n";
    let variables = [("STEADFAST_LOG__LEVEL".to_owned(), "debug".to_owned())];
    let loaded = load_from(Some((Path::new("c.toml"), text)), variables).unwrap();
    assert_eq!(loaded.config.log.level, "debug");
    let quoted = load_env(&[("STEADFAST_LOG", "\"trace\"")]).unwrap();
    assert_eq!(quoted.config.log.level, "trace");
    let error = load_env(&[
        ("STEADFAST_LOG__FORMAT", "xml"),
        ("STEADFAST_LOG__LEVEL", ""),
        ("STEADFAST_LOG__LEVL", "info"),
        ("STEADFAST_CONFIG", "elsewhere.toml"),
        ("OTHER", "x"),
    ]);
    insta::assert_snapshot!(error.unwrap_err().to_string());
}

#[test]
fn bad_units_absurd_numbers_and_contradictions_are_all_told() {
    let text = "\
[llm]
timeout = \"5 lightyears\"
model = \"\"
base_url = \"ftp://example.org\"
api_key = \"sk-not-to-be-shown\"
api_key_file = \"/nowhere/key\"
context_window = 4000
[llm.retry]
max_attempts = 1e99
initial = \"2m\"
multiplier = nan
jitter = 2
[llm.limits]
requests_per_minute = -1
[job]
concurrency = 0
deadline = 24
[job.retry]
max_attempts = 3
[queue]
url = \"redis:localhost\"
lease = \"2s\"
response_timeout = \"3s\"
max_job_bytes = \"9EB\"
[github]
private_key = \"not a key\"
token = 5
[agent]
retry = { max = \"1s\" }
jail = true
jail_min_level = 3
[agent.command]
memory = \"lots\"
[agent.git]
allow_workflows = \"yes\"
";
    insta::assert_snapshot!(problems(text));
}

#[test]
fn what_would_stop_the_start_is_told_with_its_line() {
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "{{ nobody }}").unwrap();
    let told = problems(&format!(
        "[agent]\nsystem_prompt_file = \"/nowhere/a.jinja\"\ntask_prompt_file = {:?}\n[log]\nlevel = \"inof\"\n",
        wrong.path()
    ));
    for part in [
        ":2: agent.system_prompt_file: cannot read /nowhere/a.jinja",
        ":3: agent.task_prompt_file: task prompt",
        ":5: log.level: \"inof\" is no level",
        "3 problems",
    ] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
}

#[test]
fn no_token_goes_to_a_server_that_it_is_not_of() {
    let (api, web) = ("api_url = \"https://git.example/api/v3\"", "web_url = \"https://git.example\"");
    let told = problems(&format!("[github]\n{api}\n"));
    assert!(
        told.contains(":2: github.api_url: is https://git.example/api/v3, while github.web_url"),
        "{told}"
    );
    let told = problems(&format!("[github]\n\n{web}\n"));
    assert!(told.contains(":3: github.web_url: is https://git.example/, while github.api_url"), "{told}");
    assert!(load_text(&format!("[github]\n{api}\n{web}\n")).is_ok());
}

#[test]
fn a_secret_is_never_in_a_problem_nor_in_what_is_shown() {
    let text = "[llm]\napi_key = \"sk-secret-1\"\nmodel = \"\"\n[github]\ntoken = \"ghp_secret 2\"\n\
                private_key = \"secret-3\"\n[queue]\nurl = \"redis://me:s%40secret-4@h:1/0\"\nlease = \"9\"\n";
    let told = problems(text);
    assert!(told.contains("3 problems") || told.contains("4 problems"), "{told}");
    assert!(!told.contains("secret"), "{told}");

    let text = "[llm]\napi_key = \"sk-secret-1\"\n[queue]\nurl = \"redis://me:s%40secret-4@h:1/0\"\n";
    let loaded = load_text(text).unwrap();
    let shown = format!("{} {loaded:?}", loaded.show());
    assert!(!loaded.show().contains("secret"), "{}", loaded.show());
    assert!(!shown.contains("sk-secret"), "{shown}");
    let all: Vec<_> =
        loaded.secrets.all().map(|s| secrecy::ExposeSecret::expose_secret(s).to_owned()).collect();
    assert_eq!(all, ["sk-secret-1", "s%40secret-4", "s@secret-4"]);
}

#[test]
fn a_queue_of_many_hosts_is_taken_and_its_passwords_are_secrets() {
    let expose = |secret: &secrecy::SecretString| secrecy::ExposeSecret::expose_secret(secret).to_owned();
    let url = "redis+sentinel://me:secret-4@h:1,i:2/queue?sentinel_pass=secret-5";
    let loaded = load_text(&format!("[queue]\nurl = \"{url}\"\n")).unwrap();
    assert_eq!(loaded.secrets.all().map(expose).collect::<Vec<_>>(), ["secret-4", "secret-5"]);
    assert!(!loaded.show().contains("secret-"), "{}", loaded.show());
    assert!(problems("[queue]\nurl = \"redis+cluster://:secret-4@\"\n").contains("names no host"));
}

/// Two endpoints, the second with limits, prices and a key file of its own.
fn endpoints(file: &Path) -> String {
    format!(
        "[llm]\nmodel = \"m\"\n[llm.price]\nprompt = 2.0\n[llm.limits]\nrequests_per_minute = 60\nburst = 3\n\
         [[llm.endpoints]]\nname = \"first\"\nbase_url = \"https://one.example/v1\"\nmodel = \"m-1\"\n\
         api_key = \"sk-secret-1\"\n\
         [[llm.endpoints]]\nname = \"spare\"\nbase_url = \"https://two.example/v1\"\nmodel = \"m-2\"\n\
         api_key_file = {file:?}\nlimits = {{ requests_per_minute = 7 }}\nprice = {{ prompt = 0 }}\n"
    )
}

#[test]
fn endpoints_say_what_differs_and_their_keys_are_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "sk-secret-2\n").unwrap();
    let loaded = load_text(&endpoints(&file)).unwrap();
    let config = &loaded.config;
    let [first, spare] = &config.llm_endpoints[..] else { panic!("{:?}", config.llm_endpoints) };
    assert_eq!((first.limits.requests_per_minute, first.limits.burst, first.price.prompt), (60, 3, 2.0));
    assert_eq!((spare.limits.requests_per_minute, spare.limits.burst, spare.price.prompt), (7, 3, 0.0));
    let names: Vec<_> = config.actors.llm_endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    assert_eq!(names, ["first", "spare"]);
    assert_eq!(config.agent.endpoint_prices["spare"].prompt, 0.0, "free, and known to be");
    let secrets: Vec<_> =
        loaded.secrets.all().map(|s| secrecy::ExposeSecret::expose_secret(s).to_owned()).collect();
    assert_eq!(secrets, ["sk-secret-1", "sk-secret-2"]);
    assert!(loaded.private_paths().contains(&file), "the model's commands must not see it");
    let shown = loaded.show();
    assert!(!shown.contains("secret") && !format!("{loaded:?}").contains("sk-secret"), "{shown}");
    let again = load_text(&shown).unwrap();
    assert_eq!(again.config.llm_endpoints, config.llm_endpoints);

    let one_line = r#"[{name="a", base_url="http://h/v1", model="m"}]"#;
    let loaded = load_env(&[("STEADFAST_LLM__ENDPOINTS", one_line)]).unwrap();
    assert_eq!(loaded.config.llm_endpoints[0].name, "a");
}

#[test]
fn what_is_wrong_with_endpoints_is_told_without_their_keys() {
    let good = "name = \"a\"\nbase_url = \"https://h/v1\"\nmodel = \"m\"\napi_key = \"sk-secret-1\"\n";
    let rows = [
        (good.replace("\"a\"", "\"a b\""), "c.toml:1: llm.endpoints: entry 1 (a b): name must be 1 to 32"),
        (good.replace("\"m\"", "\"\""), "model must not be empty"),
        (good.replace("name", "nmae"), "entry 1: unknown field `nmae`"),
        (good.replace("model = \"m\"\n", ""), "entry 1: missing field `model`"),
        (good.replace("https", "ftp"), "a: base_url is no http or https address"),
        (good.replace("sk-secret-1", "sk-secret 1"), "a: api_key holds a blank"),
        (format!("{good}api_key_file = \"/nowhere\"\n"), "api_key and api_key_file are both set"),
        (format!("{good}limits = {{ burst = 5000000 }}\n"), "limits.burst: 5000000 is out of range"),
        (format!("{good}price = 5\n"), "entry 1: invalid type"),
        (format!("{good}[[llm.endpoints]]\n{good}"), "entry 2 (a): an entry before it has this name"),
    ];
    for (text, want) in rows {
        let told = problems(&format!("[[llm.endpoints]]\n{text}"));
        assert!(told.contains(want), "{want} is not in:\n{told}");
        assert!(told.contains("c.toml:1: llm.endpoints: ") && !told.contains("secret"), "{told}");
    }
    let told = problems("[llm]\nendpoints = [1]\n");
    assert!(told.contains("c.toml:2: llm.endpoints: entry 1: is a table of keys"), "{told}");
}

#[test]
fn a_webhooks_address_is_a_secret() {
    let address = "https://hooks.example/services/T000/secret-5";
    let loaded = load_env(&[("STEADFAST_ALERTS__WEBHOOK", address)]).unwrap();
    assert!(loaded.show().contains("webhook = \"***\"  # STEADFAST_ALERTS__WEBHOOK"), "{}", loaded.show());
    assert!(!format!("{} {loaded:?}", loaded.show()).contains("secret-5"));
    let redactor = crate::logs::Redactor::new(loaded.secrets.all());
    for text in [address.to_owned(), "POST /services/T000/secret-5 HTTP/1.1".to_owned()] {
        assert!(!redactor.mask(&text).contains("secret-5"), "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hook");
    std::fs::write(&file, format!("{address}\n")).unwrap();
    let loaded = load_text(&format!("[alerts]\nwebhook_file = {file:?}\n")).unwrap();
    let webhook = loaded.secrets.webhook.as_ref().unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(webhook), address);
    assert!(loaded.private_paths().contains(&file));
    std::fs::write(&file, "hooks.example/secret-5").unwrap();
    let told = problems(&format!("[alerts]\nwebhook_file = {file:?}\n"));
    assert!(told.contains("c.toml:2: alerts.webhook_file: is no http"), "{told}");
    for wrong in ["hooks.example/secret-5", "https://me:secret-5@hooks.example/", "ftp://h/secret-5"] {
        let told = problems(&format!("[alerts]\nwebhook = \"{wrong}\"\ntimeout = \"0s\"\n"));
        assert!(told.contains("c.toml:2: alerts.webhook: ") && told.contains("2 problems"), "{told}");
        assert!(!told.contains("secret-5"), "{told}");
    }
}

#[test]
fn secrets_come_from_files_and_from_other_programs_variables() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "ghp_from_file\n").unwrap();
    let text = format!("[github]\ntoken_file = {:?}\n", file.display().to_string());
    let variables =
        [("GITHUB_TOKEN".to_owned(), "ghp_other".to_owned()), ("OPENAI_API_KEY".into(), "sk-other".into())];
    let loaded = load_from(Some((Path::new("c.toml"), &text)), variables).unwrap();
    let token = loaded.secrets.github_token.as_ref().unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(token), "ghp_from_file");
    let key = loaded.secrets.llm_api_key.as_ref().unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(key), "sk-other");
    assert!(loaded.show().contains("api_key = \"***\"  # OPENAI_API_KEY"), "{}", loaded.show());

    let missing = load_text("[llm]\napi_key_file = \"/nowhere/key\"\n").unwrap_err().to_string();
    assert!(missing.contains("c.toml:2: llm.api_key_file: cannot read /nowhere/key"), "{missing}");
}

#[test]
fn numbers_that_belong_to_texts_and_texts_that_can_be_numbers() {
    let loaded = load_env(&[
        ("STEADFAST_GITHUB__APP_ID", "12345"),
        ("STEADFAST_LLM__TEMPERATURE", "0.2"),
        ("STEADFAST_LLM__MODEL", "4o"),
        ("STEADFAST_JOB__CONCURRENCY", "7"),
        ("STEADFAST_AGENT__CHECKS", "[\"make test\"]"),
        ("STEADFAST_LLM__PRICE__PROMPT", "2"),
    ]);
    let config = loaded.unwrap().config;
    assert_eq!(config.github.app_id, "12345");
    assert_eq!(config.llm.temperature, steadfast_llm::Temperature::Of(0.2));
    assert_eq!(config.llm.model, "4o");
    assert_eq!(config.actors.job.concurrency, 7);
    assert_eq!(config.agent.checks, ["make test"]);
    assert_eq!(config.agent.price("4o").unwrap().prompt, 2.0);
}

#[test]
fn what_is_written_once_reaches_both_who_need_it() {
    let text = "[job]\nmax_attempts = 9\nper_repo_concurrency = 2\n[llm]\ncontext_window = 9000\nmax_answer_tokens = 77\nspacing = \"1s\"\n";
    let config = load_text(text).unwrap().config;
    assert_eq!(config.actors.job.retry.max_attempts, 9);
    assert_eq!(config.queue.per_repo_concurrency, 2);
    assert_eq!((config.agent.context_window, config.agent.max_answer_tokens), (9000, 77));
    assert_eq!(config.actors.llm_spacing, std::time::Duration::from_secs(1));
    assert_eq!(config.actors.lease, config.queue.lease);
    assert_eq!(config.agent.price("any"), None);
}

#[test]
fn the_values_that_hold_are_shown_with_their_sources() {
    let variables = [("STEADFAST_JOB__CONCURRENCY".to_owned(), "16".to_owned())];
    let loaded = load_from(Some((Path::new("c.toml"), "[llm]\nmodel = \"m\"\n")), variables).unwrap();
    let shown = loaded.show();
    for line in [
        "model = \"m\"  # c.toml:2",
        "concurrency = 16  # STEADFAST_JOB__CONCURRENCY",
        "lease = \"30s\"  # default",
        "[llm.retry]",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} not in\n{shown}");
    }
    // What is shown can be read again and means the same.
    let again = load_text(&shown).unwrap();
    assert_eq!(again.values, loaded.values);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load(Some(Path::new("/nowhere/steadfast.toml"))).unwrap_err().to_string();
    assert!(error.contains("/nowhere/steadfast.toml") && error.contains("cannot read"), "{error}");
}

#[test]
fn the_reference_page_is_up_to_date() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md"));
    assert!(
        page.unwrap_or_default() == reference(),
        "docs/configuration.md is out of date: cargo run -- config docs > docs/configuration.md"
    );
}

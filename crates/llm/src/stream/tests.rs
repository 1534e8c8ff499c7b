//! Streams cut into any pieces, and cut off at any place.

use futures_util::FutureExt;
use proptest::prelude::*;
use steadfast_core::chat::FinishReason;

use super::*;
use crate::testing::body_of;

const CAP: usize = 100_000;

/// A stream with what servers put into theirs: comments, names, both line ends, letters of several
/// bytes, calls in pieces, usage at the end.
const STREAM: &str = concat!(
    ": processing\n\n",
    "id: 1\r\nevent: message\r\ndata: {\"id\":\"x\",\"model\":\"model-b\",\"choices\":[{\"index\":0,",
    "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\r\n\r\n",
    "data:{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Zoë läßt grüßen 🦀\"}}]}\n\n",
    "unknown-field: 1\nretry: 100\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"type\":\"function\",",
    "\"function\":{\"name\":\"read_file\",\"arguments\":\"\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":",
    "{\"arguments\":\"{\\\"path\\\":\\\"ä.rs\\\"}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n",
    "data: [DONE]\n\n",
);

/// Reads prepared pieces; they are all there, so nothing has to be waited for.
fn read(pieces: Vec<Result<Bytes, TransportError>>) -> Result<Assembled, Broken> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(read_stream(body_of(pieces), CAP))
}

fn cut_at(text: &str, places: &[usize]) -> Vec<Result<Bytes, TransportError>> {
    let bytes = text.as_bytes();
    let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.push(bytes.len());
    places.sort_unstable();
    let mut begin = 0;
    let piece = |end: usize| {
        let piece = Bytes::copy_from_slice(&bytes[begin..end]);
        begin = end;
        Ok(piece)
    };
    places.into_iter().map(piece).collect()
}

fn data(lines: &[&str]) -> Vec<Result<Bytes, TransportError>> {
    lines.iter().map(|line| Ok(Bytes::from(format!("data: {line}\n\n")))).collect()
}

fn cut_off() -> TransportError {
    TransportError::CutOff("gone".into())
}

const HELLO: &str = r#"{"choices":[{"index":0,"delta":{"content":"hello"}}]}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;

#[test]
fn a_stream_is_read_whole() {
    let answer = read(cut_at(STREAM, &[])).unwrap();
    assert_eq!(answer.content.as_deref(), Some("Zoë läßt grüßen 🦀"));
    assert_eq!(answer.tool_calls[0].arguments, "{\"path\":\"ä.rs\"}");
    assert_eq!(answer.finish, FinishReason::ToolCalls);
    assert_eq!(answer.usage.unwrap().total(), 12);
    assert_eq!(answer.model.as_deref(), Some("model-b"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_pieces_give_the_same_answer(places in proptest::collection::vec(any::<usize>(), 0..60)) {
        prop_assert_eq!(read(cut_at(STREAM, &places)), read(cut_at(STREAM, &[])));
    }

    #[test]
    fn bytes_one_by_one_give_the_same_answer(from in 0..STREAM.len()) {
        let places: Vec<usize> = (from..STREAM.len().min(from + 200)).collect();
        prop_assert_eq!(read(cut_at(STREAM, &places)), read(cut_at(STREAM, &[])));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(vec![Ok(Bytes::from(bytes))]).is_err());
    }
}

#[test]
fn cut_off_at_any_byte_it_is_the_same_answer_or_none() {
    let whole = read(cut_at(STREAM, &[])).unwrap();
    let end_of_finish = STREAM.find("\n\ndata: {\"choices\":[],\"usage\"").unwrap();
    for end in 0..STREAM.len() {
        for broken in [true, false] {
            let mut pieces = vec![Ok(Bytes::copy_from_slice(&STREAM.as_bytes()[..end]))];
            pieces.extend(broken.then(|| Err(cut_off())));
            let result = read(pieces);
            // Half a line is no event, unless the connection ended in good order behind it.
            let whole_from = if broken { end_of_finish + 2 } else { end_of_finish };
            assert_eq!(result.is_ok(), end >= whole_from, "cut off at {end}: {result:?}");
            if let Ok(answer) = result {
                assert_eq!(Assembled { usage: whole.usage, ..answer }, whole, "cut off at {end}");
            }
        }
    }
}

#[test]
fn the_end_needs_a_mark_or_a_reason() {
    assert!(read(data(&[HELLO, "[DONE]"])).is_ok());
    assert!(read(data(&[HELLO, STOP])).is_ok());
    let unreadable = read(data(&[HELLO]));
    assert!(matches!(unreadable, Err(Broken::Flaw(Flaw::Unreadable(_)))), "{unreadable:?}");
    assert!(read(data(&["[DONE]"])).is_err());
    assert!(read(vec![]).is_err());
}

#[test]
fn an_answer_that_ended_stays_whole_when_the_connection_breaks() {
    let mut pieces = data(&[HELLO, STOP]);
    pieces.push(Err(cut_off()));
    assert_eq!(read(pieces).unwrap().content.as_deref(), Some("hello"));

    assert!(read(data(&[HELLO, STOP, "{\"choices\":[],\"usa"])).is_ok());

    let mut pieces = data(&[HELLO]);
    pieces.push(Err(cut_off()));
    assert_eq!(read(pieces), Err(Broken::Transport(cut_off())));
}

#[test]
fn silence_behind_the_end_mark_is_not_waited_for() {
    let pieces = stream::iter(data(&[HELLO, STOP, USAGE, "[DONE]"])).chain(stream::pending());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let began = tokio::time::Instant::now();
        assert_eq!(read_stream(pieces.boxed(), CAP).await.unwrap().usage.unwrap().total(), 12);
        assert_eq!(began.elapsed(), DRAIN);
    });
}

#[test]
fn errors_in_the_stream_are_the_servers_own() {
    let chunk = r#"{"choices":[],"error":{"code":502,"message":"upstream"}}"#;
    let named = "event: error\ndata: {\"error\":{\"code\":502,\"message\":\"upstream\"}}\n\n";
    let bare = "event: error\ndata: {\"code\":502,\"message\":\"upstream\"}\n\n";
    let error = serde_json::json!({ "code": 502, "message": "upstream" });
    for pieces in [data(&[chunk]), vec![Ok(Bytes::from(named))], vec![Ok(Bytes::from(bare))]] {
        let flaw = Flaw::Error { error: error.clone(), begun: false };
        assert_eq!(read(pieces), Err(Broken::Flaw(flaw)));
    }
    let words = read(vec![Ok(Bytes::from("event: error\ndata: out of memory\n\n"))]);
    let flaw = Flaw::Error { error: Value::String("out of memory".into()), begun: false };
    assert_eq!(words, Err(Broken::Flaw(flaw)));
}

#[test]
fn what_is_no_stream_of_completions_is_unreadable() {
    let html = Ok(Bytes::from("<html>\n<p>hello</p>\n</html>\n"));
    let invalid = Ok(Bytes::from(&b"data: \xff\xff\n\n"[..]));
    for pieces in
        [vec![html], vec![invalid], data(&["not json"]), data(&["[1,2]"]), data(&[r#"{"choices":3}"#])]
    {
        let result = read(pieces);
        assert!(matches!(result, Err(Broken::Flaw(Flaw::Unreadable(_)))), "{result:?}");
    }
}

#[test]
fn a_stream_larger_than_its_cap_is_left() {
    let line = Ok(Bytes::from(format!("data: {HELLO}\n\n")));
    let endless = stream::repeat_with(move || line.clone());
    let result = read_stream(endless.boxed(), CAP).now_or_never();
    assert_eq!(result, Some(Err(Broken::Transport(TransportError::TooLarge { cap: CAP }))));
}

#[test]
fn a_whole_answer_is_read_and_a_half_one_is_not() {
    let whole = r#"{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;
    for end in 0..=whole.len() {
        let body = body_of(vec![Ok(Bytes::copy_from_slice(&whole.as_bytes()[..end]))]);
        let result = read_whole(body, CAP).now_or_never().unwrap();
        assert_eq!(result.is_ok(), end == whole.len(), "{end}: {result:?}");
    }
    let vllm = r#"{"object":"error","message":"too long","code":400}"#;
    let result = read_whole(body_of(vec![Ok(Bytes::from(vllm))]), CAP).now_or_never().unwrap();
    assert!(matches!(result, Err(Broken::Flaw(Flaw::Error { begun: false, .. }))), "{result:?}");
}

//! `pharos logs`: a LogQL query over the server's log index.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use kube::Client;
use serde_json::Value;

use crate::{
    cli::{LogsOptions, Output},
    commands::{client, duration, encoded, get, say},
};

const API: &str = "/observe/loki/loki/api/v1";
/// How often `--follow` asks for what is new.
const FOLLOW: Duration = Duration::from_secs(1);
/// How far back it asks again, in nanoseconds: lines of other nodes arrive later than the server's own.
const OVERLAP: i128 = 30_000_000_000;
/// The most lines that one answer has: what the server allows.
const PAGE: usize = 5000;

pub async fn run(options: LogsOptions) -> anyhow::Result<()> {
    let client = client(&options.client.kubeconfig).await?;
    let now = Timestamp::now();
    let start = now.checked_sub(duration(&options.since)?)?.as_nanosecond();
    let end = now.as_nanosecond();
    let path = path(&options.query, start, end, options.limit as usize, "backward");
    let mut answer = get(&client, &path).await?;
    if !options.follow {
        return show(&answer, options.output, true);
    }
    let mut seen = Seen::default();
    let page = seen.sift(&mut answer)?;
    show(&answer, options.output, true)?;
    // What lies before the oldest line was left out by the limit, and stays out.
    let floor = if page.lines < options.limit as usize { start } else { page.oldest };
    follow(&client, &options, seen, floor, end).await
}

/// Prints what comes after `end`, and what came late, but nothing that is older than `floor`.
async fn follow(client: &Client, options: &LogsOptions, mut seen: Seen, floor: i128, mut end: i128) -> anyhow::Result<()> {
    loop {
        let mut start = (end - OVERLAP).max(floor);
        seen.forget_before(start);
        tokio::time::sleep(FOLLOW).await;
        end = Timestamp::now().as_nanosecond();
        loop {
            let mut answer = get(client, &path(&options.query, start, end, PAGE, "forward")).await?;
            let page = seen.sift(&mut answer)?;
            if page.new > 0 {
                show(&answer, options.output, false)?;
            }
            if page.lines < PAGE {
                break;
            }
            start = page.next(start);
        }
    }
}

fn path(query: &str, start: i128, end: i128, limit: usize, direction: &str) -> String {
    format!("{API}/query_range?query={}&start={start}&end={end}&limit={limit}&direction={direction}", encoded(query))
}

/// What was printed of the stretch of time that is asked for again: each line, and how often.
#[derive(Default)]
struct Seen(HashMap<(i128, String), usize>);

/// What an answer held.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    lines: usize,
    /// Lines that no answer before it had.
    new: usize,
    oldest: i128,
    newest: i128,
}

impl Page {
    /// Where the page after a full one begins. More lines of the last moment may follow, so it is asked for again.
    fn next(&self, start: i128) -> i128 {
        self.newest.max(start + 1)
    }
}

impl Seen {
    /// Takes out of an answer what was in one before.
    fn sift(&mut self, answer: &mut Value) -> anyhow::Result<Page> {
        if answer.pointer("/data/resultType").and_then(Value::as_str) != Some("streams") {
            bail!("--follow goes with queries of lines alone");
        }
        let streams = answer.pointer_mut("/data/result").and_then(Value::as_array_mut).context("the answer has no streams")?;
        let mut page = Page { oldest: i128::MAX, newest: i128::MIN, ..Page::default() };
        // Programs do write the same line twice at a time: a line is known as often as one answer had it.
        let mut here: HashMap<(i128, String), usize> = HashMap::new();
        for stream in streams.iter_mut() {
            let labels = stream["stream"].to_string();
            let Some(values) = stream.get_mut("values").and_then(Value::as_array_mut) else { continue };
            let mut new = Vec::new();
            for value in std::mem::take(values) {
                let (time, _) = entry(&value)?;
                page.lines += 1;
                page.oldest = page.oldest.min(time);
                page.newest = page.newest.max(time);
                let key = (time, format!("{labels} {value}"));
                let count = here.entry(key.clone()).or_default();
                *count += 1;
                let known = self.0.entry(key).or_default();
                if *count > *known {
                    *known = *count;
                    new.push(value);
                }
            }
            page.new += new.len();
            *values = new;
        }
        streams.retain(|stream| stream["values"].as_array().is_some_and(|values| !values.is_empty()));
        Ok(page)
    }

    fn forget_before(&mut self, start: i128) {
        self.0.retain(|(time, _), _| *time >= start);
    }
}

/// The time and the text of a line.
fn entry(value: &Value) -> anyhow::Result<(i128, &str)> {
    let (Some(time), Some(line)) = (value[0].as_str(), value[1].as_str()) else { bail!("a line has no time or no text") };
    Ok((time.parse().with_context(|| format!("{time} is no time"))?, line))
}

fn show(answer: &Value, output: Output, backward: bool) -> anyhow::Result<()> {
    if output == Output::Json {
        say(&serde_json::to_string_pretty(answer)?);
        return Ok(());
    }
    let data = answer.get("data").context("the answer has no data")?;
    if data["resultType"] != "streams" {
        say(&serde_json::to_string_pretty(&data["result"])?);
        return Ok(());
    }
    for (time, line) in lines(data, backward)? {
        say(&format!("{} {line}", Timestamp::from_nanosecond(time)?.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")));
    }
    Ok(())
}

/// The lines of all streams in order of time; those of one moment in the order that they came in.
fn lines(data: &Value, backward: bool) -> anyhow::Result<Vec<(i128, String)>> {
    let mut lines = Vec::new();
    for stream in data["result"].as_array().into_iter().flatten() {
        let label = |name: &str| stream["stream"][name].as_str();
        let source = match (label("namespace"), label("pod"), label("component")) {
            (Some(namespace), Some(pod), _) => format!("{namespace}/{pod}"),
            (_, _, Some(component)) => component.to_owned(),
            _ => stream["stream"].to_string(),
        };
        for value in stream["values"].as_array().into_iter().flatten() {
            let (time, line) = entry(value)?;
            lines.push((time, format!("{source} {line}")));
        }
    }
    if backward {
        // The newest is first there, also among those of one moment, which sorting leaves as they are.
        lines.reverse();
    }
    lines.sort_by_key(|(time, _)| *time);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(values: &[(&str, &str)]) -> Value {
        let values: Vec<Value> = values.iter().map(|(time, line)| json!([time, line])).collect();
        json!({"status": "success", "data": {"resultType": "streams", "result": [
            {"stream": {"component": "kubelet"}, "values": values}]}})
    }

    #[test]
    fn one_moment_keeps_its_order() {
        let texts = |answer: &Value, backward| -> Vec<String> {
            lines(&answer["data"], backward).unwrap().into_iter().map(|(_, line)| line).collect()
        };
        let expected = ["kubelet a", "kubelet b", "kubelet c"];
        assert_eq!(texts(&answer(&[("2", "c"), ("1", "b"), ("1", "a")]), true), expected);
        assert_eq!(texts(&answer(&[("1", "a"), ("1", "b"), ("2", "c")]), false), expected);
    }

    #[test]
    fn what_is_asked_for_again_is_printed_once() {
        let mut seen = Seen::default();
        let mut sift = |values: &[(&str, &str)]| -> (Page, Vec<String>) {
            let mut answer = answer(values);
            let page = seen.sift(&mut answer).unwrap();
            let lines = lines(&answer["data"], false).unwrap().into_iter().map(|(_, line)| line).collect();
            (page, lines)
        };
        let (page, lines) = sift(&[("5", "a"), ("5", "a"), ("7", "b")]);
        assert_eq!(page, Page { lines: 3, new: 3, oldest: 5, newest: 7 });
        assert_eq!(lines, ["kubelet a", "kubelet a", "kubelet b"]);
        // One came late, one a third time.
        let (page, lines) = sift(&[("5", "a"), ("5", "a"), ("5", "a"), ("6", "late"), ("7", "b"), ("8", "c")]);
        assert_eq!(page, Page { lines: 6, new: 3, oldest: 5, newest: 8 });
        assert_eq!(lines, ["kubelet a", "kubelet late", "kubelet c"]);
        let (page, lines) = sift(&[("7", "b"), ("8", "c")]);
        assert_eq!((page.new, lines.len()), (0, 0));
    }

    #[test]
    fn pages_go_on() {
        let page = Page { newest: 9, ..Page::default() };
        assert_eq!(page.next(3), 9);
        assert_eq!(page.next(9), 10, "a moment with more lines than a page has");
    }

    #[test]
    fn numbers_are_not_followed() {
        let mut answer = json!({"data": {"resultType": "vector", "result": []}});
        assert!(Seen::default().sift(&mut answer).is_err());
    }
}

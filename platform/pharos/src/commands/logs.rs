//! `pharos logs`: a LogQL query over the server's log index.

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    cli::{LogsOptions, Output},
    commands::{client, duration, encoded, get, say},
};

const API: &str = "/observe/loki/loki/api/v1";
/// How often `--follow` asks for what is new.
const FOLLOW: std::time::Duration = std::time::Duration::from_secs(1);

pub async fn run(options: LogsOptions) -> anyhow::Result<()> {
    let client = client(&options.client.kubeconfig).await?;
    let now = Timestamp::now();
    let mut start = now.checked_sub(duration(&options.since)?)?.as_nanosecond();
    let mut end = now.as_nanosecond();
    let mut direction = "backward";
    loop {
        let path = format!(
            "{API}/query_range?query={}&start={start}&end={end}&limit={}&direction={direction}",
            encoded(&options.query),
            options.limit
        );
        let answer = get(&client, &path).await?;
        if options.output == Output::Json {
            say(&serde_json::to_string_pretty(&answer)?);
        } else {
            print(&answer)?;
        }
        if !options.follow {
            return Ok(());
        }
        start = end;
        tokio::time::sleep(FOLLOW).await;
        end = Timestamp::now().as_nanosecond();
        direction = "forward";
    }
}

/// Prints streams line by line in order of time, anything else as JSON.
fn print(answer: &Value) -> anyhow::Result<()> {
    let data = answer.get("data").context("the answer has no data")?;
    if data["resultType"] != "streams" {
        say(&serde_json::to_string_pretty(&data["result"])?);
        return Ok(());
    }
    let mut lines: Vec<(i128, String)> = Vec::new();
    for stream in data["result"].as_array().into_iter().flatten() {
        let label = |name: &str| stream["stream"][name].as_str();
        let source = match (label("namespace"), label("pod"), label("component")) {
            (Some(namespace), Some(pod), _) => format!("{namespace}/{pod}"),
            (_, _, Some(component)) => component.to_owned(),
            _ => stream["stream"].to_string(),
        };
        for value in stream["values"].as_array().into_iter().flatten() {
            let (Some(time), Some(line)) = (value[0].as_str(), value[1].as_str()) else { bail!("a line has no time or no text") };
            lines.push((time.parse()?, format!("{source} {line}")));
        }
    }
    lines.sort_by_key(|(time, _)| *time);
    for (time, line) in lines {
        say(&format!("{} {line}", Timestamp::from_nanosecond(time)?.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")));
    }
    Ok(())
}

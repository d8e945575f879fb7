//! Which representation a client gets: `Accept` in, [`Output`] out.

use http::{HeaderMap, HeaderValue};

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`, for built-in kinds.
    Protobuf,
}

/// What an answer is turned into before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects themselves.
    Object,
    /// `Table`, with this version of `meta.k8s.io`.
    Table(&'static str),
    /// `PartialObjectMetadata` or its list, with this version of `meta.k8s.io`.
    Partial(&'static str),
}

/// A client's choice of format and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    pub(crate) pretty: bool,
}

impl Output {
    /// Plain JSON, for answers that are never negotiated away (errors).
    pub(crate) const JSON: Output = Output { format: Format::Json, shape: Shape::Object, pretty: false };

    pub(crate) fn content_type(self) -> &'static str {
        match self.format {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// One media range of an `Accept` header.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MediaRange {
    pub(crate) media: String,
    pub(crate) params: Vec<(String, String)>,
    q: f32,
}

impl MediaRange {
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The media ranges of `Accept`, best first; a missing header means anything.
pub(crate) fn ranges(headers: &HeaderMap) -> Vec<MediaRange> {
    parse(headers.get_all(http::header::ACCEPT))
}

fn parse<'a>(accept: impl IntoIterator<Item = &'a HeaderValue>) -> Vec<MediaRange> {
    let text = accept.into_iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let mut ranges: Vec<MediaRange> = text.split(',').map(str::trim).filter(|r| !r.is_empty()).map(range).collect();
    if ranges.is_empty() {
        ranges.push(range("*/*"));
    }
    ranges.retain(|range| range.q > 0.0);
    ranges.sort_by(|a, b| b.q.total_cmp(&a.q)); // Stable, so equal weights keep the client's order.
    ranges
}

fn range(text: &str) -> MediaRange {
    let mut fields = text.split(';').map(str::trim);
    let media = fields.next().unwrap_or_default().to_ascii_lowercase();
    let mut q = 1.0;
    let mut params = Vec::new();
    for field in fields {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let value = value.trim_matches('"');
        if name == "q" {
            q = value.parse().unwrap_or(1.0);
        } else {
            params.push((name.to_owned(), value.to_owned()));
        }
    }
    MediaRange { media, params, q }
}

/// What kinds of answer an endpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Objects that also come as tables and metadata.
    Transformable,
    /// Plain objects only (reviews, bindings, scales, tokens).
    Plain,
}

/// The format a media range names; `protobuf` says whether what is asked for has that form.
fn format(range: &MediaRange, protobuf: bool) -> Option<Format> {
    match range.media.as_str() {
        "application/json" | "*/*" | "application/*" => Some(Format::Json),
        "application/yaml" => Some(Format::Yaml),
        "application/vnd.kubernetes.protobuf" if protobuf => Some(Format::Protobuf),
        _ => None,
    }
}

/// How a refusal is written, by the values of `Accept`: in the format the client likes best, or JSON where it likes none of
/// ours.
pub(crate) fn of_status<'a>(accept: impl IntoIterator<Item = &'a HeaderValue>) -> Output {
    let format = parse(accept).iter().find_map(|range| format(range, true)).unwrap_or(Format::Json);
    Output { format, ..Output::JSON }
}

/// Chooses the output for a request, or `None` for 406.
pub(crate) fn choose(headers: &HeaderMap, pretty: bool, offer: Offer, protobuf: bool) -> Option<Output> {
    for range in ranges(headers) {
        let Some(format) = format(&range, protobuf) else { continue };
        let version = match range.param("v") {
            Some("v1beta1") => "v1beta1",
            _ => "v1",
        };
        let known =
            matches!(range.param("v"), None | Some("v1" | "v1beta1")) && matches!(range.param("g"), None | Some("meta.k8s.io"));
        let shape = match range.param("as") {
            None => Shape::Object,
            // A table's cells may be anything, for which protobuf has no form.
            Some("Table") if known && offer == Offer::Transformable && format != Format::Protobuf => Shape::Table(version),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if known && offer == Offer::Transformable => {
                Shape::Partial(version)
            }
            Some(_) => continue,
        };
        return Some(Output { format, shape, pretty });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, want: Option<(Format, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ACCEPT, accept.parse().unwrap());
        let got = choose(&headers, false, Offer::Transformable, true).map(|output| (output.format, output.shape));
        assert_eq!(got, want, "{accept}");
    }

    #[test]
    fn picks_the_first_it_can_serve() {
        check("application/json", Some((Format::Json, Shape::Object)));
        check("application/vnd.kubernetes.protobuf,application/json", Some((Format::Protobuf, Shape::Object)));
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Object)),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json",
            Some((Format::Protobuf, Shape::Partial("v1"))),
        );
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some((Format::Json, Shape::Table("v1"))));
        check("application/json;as=Nonsense;v=v1;g=meta.k8s.io,application/json", Some((Format::Json, Shape::Object)));
        check("application/yaml;q=0.5, application/json;q=0", Some((Format::Yaml, Shape::Object)));
        check("text/html", None);
        check("*/*", Some((Format::Json, Shape::Object)));
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some((Format::Json, Shape::Partial("v1"))));
    }
}

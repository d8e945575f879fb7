//! Content negotiation: which encoding, and which view of an object, a client's `Accept` asks for.

use crate::status::Status;

/// An encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What an object is turned into before it is encoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Nothing: the object itself.
    Object,
    /// `meta.k8s.io` `Table`, of version `v1` or `v1beta1`.
    Table(&'static str),
    /// `meta.k8s.io` `PartialObjectMetadata`, of version `v1` or `v1beta1`.
    Partial(&'static str),
    /// `meta.k8s.io` `PartialObjectMetadataList`, of version `v1` or `v1beta1`.
    PartialList(&'static str),
    /// `apidiscovery.k8s.io` `APIGroupDiscoveryList`, of version `v2` or `v2beta1`.
    GroupDiscovery(&'static str),
}

/// What an endpoint can make.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// The encodings, the default first.
    pub formats: &'a [Format],
    /// Whether it has tables.
    pub table: bool,
    /// Whether it has partial metadata.
    pub partial: bool,
    /// Whether it has aggregated discovery.
    pub discovery: bool,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Accepted {
    /// The encoding.
    pub format: Format,
    /// The view.
    pub view: View,
    /// `pretty=1` was asked for.
    pub pretty: bool,
    /// `stream=watch` was asked for.
    pub stream: bool,
}

impl Format {
    /// Every encoding of built-in kinds.
    pub const ALL: &'static [Self] = &[Self::Json, Self::Yaml, Self::Protobuf];
    /// The encodings of custom kinds.
    pub const CUSTOM: &'static [Self] = &[Self::Json, Self::Yaml];

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The encoding of a request body, by its `Content-Type`; JSON without one.
    pub fn of_content_type(content_type: Option<&str>) -> Option<Self> {
        let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "" => Some(Self::Json),
            other => Self::ALL.iter().copied().find(|f| f.media_type() == other),
        }
    }
}

impl Offer<'_> {
    /// What resources of built-in kinds offer.
    pub const RESOURCE: Offer<'static> = Offer { formats: Format::ALL, table: true, partial: true, discovery: false };
    /// What resources of custom kinds offer.
    pub const CUSTOM: Offer<'static> = Offer { formats: Format::CUSTOM, table: true, partial: true, discovery: false };
    /// What objects without metadata of their own offer (reviews, scales, statuses).
    pub const PLAIN: Offer<'static> = Offer { formats: Format::ALL, table: false, partial: false, discovery: false };
    /// What `/api` and `/apis` offer.
    pub const DISCOVERY: Offer<'static> = Offer { formats: Format::ALL, table: false, partial: false, discovery: true };

    fn view(&self, format: Format, parameters: &Parameters<'_>) -> Option<View> {
        let meta_version = || match parameters.version {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        };
        match (parameters.kind, parameters.group) {
            ("", _) => Some(View::Object),
            ("Table", "meta.k8s.io") if self.table && format != Format::Protobuf => meta_version().map(View::Table),
            ("PartialObjectMetadata", "meta.k8s.io") if self.partial => meta_version().map(View::Partial),
            ("PartialObjectMetadataList", "meta.k8s.io") if self.partial => meta_version().map(View::PartialList),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io") if self.discovery => match parameters.version {
                "v2" => Some(View::GroupDiscovery("v2")),
                "v2beta1" => Some(View::GroupDiscovery("v2beta1")),
                _ => None,
            },
            _ => None,
        }
    }
}

struct Clause<'a> {
    main: &'a str,
    sub: &'a str,
    quality: f32,
    parameters: Parameters<'a>,
}

#[derive(Default)]
struct Parameters<'a> {
    kind: &'a str,
    group: &'a str,
    version: &'a str,
    pretty: bool,
    stream: Option<&'a str>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next()?;
        let (main, sub) = media.split_once('/').unwrap_or((media, "*"));
        if main.is_empty() {
            return None;
        }
        let mut clause = Self { main, sub, quality: 1.0, parameters: Parameters::default() };
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_matches('"');
            let parameters = &mut clause.parameters;
            match name.trim() {
                "q" => clause.quality = value.parse().unwrap_or(1.0),
                "as" => parameters.kind = value,
                "g" => parameters.group = value,
                "v" => parameters.version = value,
                "pretty" => parameters.pretty = value == "1",
                "stream" => parameters.stream = Some(value),
                _ => {}
            }
        }
        Some(clause)
    }

    /// Fewer wildcards first.
    fn wildcards(&self) -> usize {
        usize::from(self.main == "*") + usize::from(self.sub == "*")
    }

    fn covers(&self, format: Format) -> bool {
        let (main, sub) = format.media_type().split_once('/').unwrap_or_default();
        (self.main == "*" || self.main.eq_ignore_ascii_case(main)) && (self.sub == "*" || self.sub.eq_ignore_ascii_case(sub))
    }
}

/// Chooses the best of what is offered. No header, or an empty one, takes the default.
///
/// # Errors
/// 406, listing what is offered.
pub fn negotiate(header: Option<&str>, offer: Offer<'_>) -> Result<Accepted, Status> {
    let header = header.unwrap_or_default().trim();
    let refused = || {
        let types: Vec<&str> = offer.formats.iter().map(|f| f.media_type()).collect();
        Status::not_acceptable(&types)
    };
    if header.is_empty() {
        let format = *offer.formats.first().ok_or_else(refused)?;
        return Ok(Accepted { format, view: View::Object, pretty: false, stream: false });
    }
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(Clause::parse).filter(|c| c.quality > 0.0).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(a.wildcards().cmp(&b.wildcards())));
    for clause in &clauses {
        for &format in offer.formats.iter().filter(|f| clause.covers(**f)) {
            let parameters = &clause.parameters;
            if parameters.stream.is_some_and(|s| s != "watch") {
                continue;
            }
            if let Some(view) = offer.view(format, parameters) {
                return Ok(Accepted { format, view, pretty: parameters.pretty, stream: parameters.stream.is_some() });
            }
        }
    }
    Err(refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, offer: Offer<'_>) -> Option<(Format, View)> {
        negotiate(Some(header), offer).ok().map(|a| (a.format, a.view))
    }

    #[test]
    fn chooses() {
        use Format::*;
        let kubectl =
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let cases = [
            ("", Offer::RESOURCE, Some((Json, View::Object))),
            ("*/*", Offer::RESOURCE, Some((Json, View::Object))),
            (kubectl, Offer::RESOURCE, Some((Json, View::Table("v1")))),
            (kubectl, Offer::PLAIN, Some((Json, View::Object))),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", Offer::PLAIN, None),
            ("application/json;as=Table;v=v2;g=meta.k8s.io", Offer::RESOURCE, None),
            ("application/vnd.kubernetes.protobuf,application/json", Offer::RESOURCE, Some((Protobuf, View::Object))),
            ("application/vnd.kubernetes.protobuf,application/json", Offer::CUSTOM, Some((Json, View::Object))),
            ("application/vnd.kubernetes.protobuf", Offer::CUSTOM, None),
            ("application/yaml;q=0.5, application/json;q=0.2", Offer::RESOURCE, Some((Yaml, View::Object))),
            ("application/json;q=0", Offer::RESOURCE, None),
            ("text/html, application/*;q=0.8", Offer::RESOURCE, Some((Json, View::Object))),
            ("text/html", Offer::RESOURCE, None),
            ("application/json;stream=watch", Offer::RESOURCE, Some((Json, View::Object))),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Offer::RESOURCE,
                Some((Protobuf, View::PartialList("v1"))),
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                Offer::DISCOVERY,
                Some((Json, View::GroupDiscovery("v2"))),
            ),
        ];
        for (header, offer, expected) in cases {
            assert_eq!(check(header, offer), expected, "{header}");
        }
    }

    #[test]
    fn content_types() {
        assert_eq!(Format::of_content_type(None), Some(Format::Json));
        assert_eq!(Format::of_content_type(Some("application/yaml; charset=utf-8")), Some(Format::Yaml));
        assert_eq!(Format::of_content_type(Some("text/plain")), None);
    }
}

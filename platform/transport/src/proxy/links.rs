//! Links in what a proxied server answers, so that they lead through the proxy again
//! (`apimachinery/pkg/util/proxy/transport.go`).

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use html5gum::{StartTag, Token, Tokenizer, emitters::default::DefaultEmitter};
use http::{HeaderValue, header};

use crate::{Body, BoxError, Response};

/// A larger page passes as it is.
const LARGEST_PAGE: usize = 8 << 20;

/// The attributes of HTML that hold a link, by element.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where links of an answer are to lead.
#[derive(Clone, Debug)]
pub struct Links {
    /// The path under which the proxied server is seen, without a slash at its end.
    pub prefix: String,
    /// The proxied server's host and port.
    pub source: String,
    /// The host and port that the client asked.
    pub host: String,
}

impl Links {
    /// Changes the `Location` of an answer, or the links of its HTML. HTML in an encoding stays as it is.
    pub fn lead_back(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Some(location) = headers.get(header::LOCATION).and_then(|location| location.to_str().ok()) {
            if let Ok(location) = HeaderValue::from_str(&self.rewrite(location)) {
                headers.insert(header::LOCATION, location);
            }
            return response;
        }
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_html = content_type.split(';').next().is_some_and(|media| media.trim() == "text/html");
        if !is_html || headers.contains_key(header::CONTENT_ENCODING) {
            return response;
        }
        headers.remove(header::CONTENT_LENGTH);
        response.map(|body| Body::stream(self.html(body.into_stream())))
    }

    /// A link that leads to the same place through the proxy; relative links and those to other hosts are that already.
    fn rewrite<'a>(&self, link: &'a str) -> Cow<'a, str> {
        let (authority, path) = match link.split_once("//") {
            Some((scheme, rest)) if scheme.is_empty() || scheme.ends_with(':') => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            _ => (None, link),
        };
        let elsewhere = authority.is_some_and(|host| host != self.source && host != self.host);
        if elsewhere || !path.starts_with('/') {
            return Cow::Borrowed(link);
        }
        let before = match authority {
            Some(host) if host == self.host => &link[..link.len() - path.len()],
            _ => "",
        };
        let prefix = if path.starts_with(&self.prefix) { "" } else { &self.prefix };
        Cow::Owned(format!("{before}{prefix}{path}"))
    }

    fn html<S>(&self, mut body: S) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + Unpin + 'static + use<S>
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send + Unpin + 'static,
    {
        let links = self.clone();
        let page = async move {
            let mut page = BytesMut::new();
            while page.len() <= LARGEST_PAGE {
                match body.next().await {
                    Some(Ok(chunk)) => page.extend_from_slice(&chunk),
                    Some(Err(error)) => return stream::iter([Ok(page.freeze()), Err(error)]).left_stream(),
                    None => return stream::iter([Ok(links.page(&page).into()), Ok(Bytes::new())]).left_stream(),
                }
            }
            stream::iter([Ok(page.freeze())]).chain(body).right_stream()
        };
        Box::pin(stream::once(page).flatten())
    }

    /// Writes the tags with links anew, and leaves everything else as it is.
    fn page(&self, html: &[u8]) -> Vec<u8> {
        let mut emitter = DefaultEmitter::<usize>::new_with_span();
        emitter.naively_switch_states(true); // What looks like a tag in a script is none.
        let mut out = Vec::with_capacity(html.len() + 1024);
        let mut copied = 0;
        for token in Tokenizer::new_with_emitter(html, emitter) {
            let Ok(Token::StartTag(mut tag)) = token else { continue };
            let name = String::from_utf8_lossy(&tag.name);
            let Some((_, attributes)) = LINKS.iter().find(|(known, _)| *known == name) else { continue };
            let mut changed = false;
            for attribute in *attributes {
                let Some(value) = tag.attributes.get_mut(attribute.as_bytes()) else { continue };
                if let Ok(Cow::Owned(link)) = std::str::from_utf8(&value.value).map(|link| self.rewrite(link)) {
                    value.value = link.into_bytes().into();
                    changed = true;
                }
            }
            if changed {
                out.extend_from_slice(&html[copied..tag.span.start]);
                write_tag(&mut out, &tag);
                copied = tag.span.end;
            }
        }
        out.extend_from_slice(&html[copied..]);
        out
    }
}

fn write_tag(out: &mut Vec<u8>, tag: &StartTag<usize>) {
    out.push(b'<');
    out.extend_from_slice(&tag.name);
    for (name, value) in &tag.attributes {
        out.push(b' ');
        out.extend_from_slice(name);
        out.extend_from_slice(b"=\"");
        for byte in value.value.iter() {
            match byte {
                b'&' => out.extend_from_slice(b"&amp;"),
                b'"' => out.extend_from_slice(b"&quot;"),
                byte => out.push(*byte),
            }
        }
        out.push(b'"');
    }
    out.extend_from_slice(if tag.self_closing { b"/>" } else { b">" });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links { prefix: "/api/proxy".into(), source: "10.0.0.1:80".into(), host: "localhost:8001".into() }
    }

    #[test]
    fn links_to_the_server_lead_through_the_proxy() {
        for (link, want) in [
            ("/a?b#c", "/api/proxy/a?b#c"),
            ("/", "/api/proxy/"),
            ("a/b", "a/b"),
            ("?q", "?q"),
            ("", ""),
            ("http://10.0.0.1:80/a", "/api/proxy/a"),
            ("http://localhost:8001/a", "http://localhost:8001/api/proxy/a"),
            ("//10.0.0.1:80/a", "/api/proxy/a"),
            ("http://10.0.0.1:80", "http://10.0.0.1:80"),
            ("https://example.com/a", "https://example.com/a"),
            ("/api/proxy/a", "/api/proxy/a"),
            ("mailto:a@b", "mailto:a@b"),
        ] {
            assert_eq!(links().rewrite(link), want, "{link}");
        }
    }

    async fn through(content_type: &'static str, chunks: &[&'static str]) -> String {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::from_static(chunk.as_bytes()))).collect();
        let mut response = Response::new(Body::stream(futures::stream::iter(chunks)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let body = links().lead_back(response).into_body().into_bytes(1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn html_is_rewritten_and_nothing_else() {
        let chunks = ["<p title=/x>é<a hr", "ef=\"/rewriteme\">test</a><img src=/i.png><!-- <a href=/n> -->"];
        let want = "<p title=/x>é<a href=\"/api/proxy/rewriteme\">test</a><img src=\"/api/proxy/i.png\"><!-- <a href=/n> -->";
        assert_eq!(through("text/html; charset=utf-8", &chunks).await, want);
        assert_eq!(through("text/plain", &chunks).await, chunks.concat());
    }
}

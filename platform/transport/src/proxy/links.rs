//! Links in what a proxied server answers, so that they lead through the proxy again
//! (`apimachinery/pkg/util/proxy/transport.go`).

use std::{borrow::Cow, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::{HeaderValue, header};
use lol_html::{
    HandlerResult, OutputSink, element,
    send::{HtmlRewriter, Settings},
};
use parking_lot::Mutex;

use crate::{Body, BoxError, Response};

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

    fn html<S>(&self, body: S) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static + use<S>
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send + Unpin + 'static,
    {
        let written = Sink::default();
        let links = self.clone();
        let handler = element!("*", move |element| -> HandlerResult {
            let name = element.tag_name();
            let attributes = LINKS.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, attributes)| attributes);
            for attribute in attributes {
                if let Some(link) = element.get_attribute(attribute) {
                    element.set_attribute(attribute, &links.rewrite(&link))?;
                }
            }
            Ok(())
        });
        let settings = Settings::new_send().append_element_content_handler(handler);
        let rewriter = HtmlRewriter::new(settings, written.clone());
        let state = (body, Some(rewriter), written);
        futures::stream::unfold(state, |(mut body, mut rewriter, written)| async move {
            loop {
                let mut current = rewriter.take()?;
                let outcome = match body.next().await {
                    Some(Ok(chunk)) => current.write(&chunk).map(|()| rewriter = Some(current)),
                    Some(Err(error)) => return Some((Err(error), (body, None, written))),
                    None => current.end(),
                };
                if let Err(error) = outcome {
                    return Some((Err(error.into()), (body, None, written)));
                }
                let chunk = written.take();
                if !chunk.is_empty() {
                    return Some((Ok(chunk), (body, rewriter, written)));
                }
            }
        })
    }
}

/// What the rewriter has written and nobody has taken yet.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<BytesMut>>);

impl Sink {
    fn take(&self) -> Bytes {
        self.0.lock().split().freeze()
    }
}

impl OutputSink for Sink {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        self.0.lock().extend_from_slice(chunk);
    }
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
    async fn html_is_rewritten_as_it_passes_and_nothing_else() {
        let chunks = ["<p title=/x>é<a hr", "ef=\"/rewriteme\">test</a><img src=/i.png><!-- <a href=/n> -->"];
        let want = "<p title=/x>é<a href=\"/api/proxy/rewriteme\">test</a><img src=\"/api/proxy/i.png\"><!-- <a href=/n> -->";
        assert_eq!(through("text/html; charset=utf-8", &chunks).await, want);
        assert_eq!(through("text/plain", &chunks).await, chunks.concat());
    }
}

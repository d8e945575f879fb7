//! Header blocks: name and value pairs, compressed by one zlib stream per direction (SPDY/3 draft, section 2.6.10).

use std::io;

use bytes::{BufMut as _, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use http::{HeaderMap, HeaderName, HeaderValue};
use miniz_oxide::inflate::{
    TINFLStatus,
    core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT},
};

use super::malformed;

/// The longest block, decompressed.
const LONGEST_BLOCK: usize = 64 * 1024;
const WINDOW: usize = 32 * 1024;

/// The words of the dictionary both sides start from, and what follows them.
const DICTIONARY_WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|\
    accept-ranges|age|allow|authorization|cache-control|connection|content-base|content-encoding|content-language|\
    content-length|content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|\
    if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|\
    proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|user-agent|\
    vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|keep-alive|origin";
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct \
    Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
    utf-,*,enq=0.";
/// Its Adler-32, by which a zlib stream names it.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS.split('|') {
        dictionary.put_u32(word.len() as u32);
        dictionary.put_slice(word.as_bytes());
    }
    dictionary.put_slice(DICTIONARY_TAIL.as_bytes());
    dictionary
}

/// Reads the blocks of one direction.
pub(super) struct Inflater {
    state: Box<DecompressorOxide>,
    /// The last 32 KiB, as a ring; it begins with the dictionary.
    window: Vec<u8>,
    at: usize,
    begun: bool,
}

impl Inflater {
    pub(super) fn new() -> Self {
        let mut window = dictionary();
        let at = window.len();
        window.resize(WINDOW, 0);
        Self { state: Box::default(), window, at, begun: false }
    }

    /// Decompresses and parses one block.
    pub(super) fn block(&mut self, input: &[u8]) -> io::Result<HeaderMap> {
        let text = self.inflate(input)?;
        parse(&text).ok_or_else(|| malformed("header block"))
    }

    fn inflate(&mut self, mut input: &[u8]) -> io::Result<Vec<u8>> {
        if !self.begun {
            input = strip_zlib_header(input).ok_or_else(|| malformed("zlib header"))?;
            self.begun = true;
        }
        let mut text = Vec::new();
        loop {
            let (status, used, made) = decompress(&mut self.state, input, &mut self.window, self.at, TINFL_FLAG_HAS_MORE_INPUT);
            text.extend_from_slice(&self.window[self.at..self.at + made]);
            self.at = (self.at + made) % WINDOW;
            input = &input[used..];
            if text.len() > LONGEST_BLOCK {
                return Err(malformed("header block longer than allowed"));
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput if input.is_empty() => return Ok(text),
                _ => return Err(malformed("compressed header block")),
            }
        }
    }
}

/// What follows the zlib header, if it is one without a dictionary or with ours.
fn strip_zlib_header(input: &[u8]) -> Option<&[u8]> {
    let (header, rest) = input.split_first_chunk::<2>()?;
    if header[0] & 0x0f != 8 || u16::from_be_bytes(*header) % 31 != 0 {
        return None;
    }
    if header[1] & 0x20 == 0 {
        return Some(rest);
    }
    let (id, rest) = rest.split_first_chunk::<4>()?;
    (u32::from_be_bytes(*id) == DICTIONARY_ID).then_some(rest)
}

fn parse(mut text: &[u8]) -> Option<HeaderMap> {
    fn number(text: &mut &[u8]) -> Option<usize> {
        let (number, rest) = text.split_first_chunk::<4>()?;
        *text = rest;
        usize::try_from(u32::from_be_bytes(*number)).ok()
    }
    fn string<'a>(text: &mut &'a [u8]) -> Option<&'a [u8]> {
        let length = number(text)?;
        let (string, rest) = text.split_at_checked(length)?;
        *text = rest;
        Some(string)
    }
    let count = number(&mut text)?;
    let mut headers = HeaderMap::new();
    for _ in 0..count {
        let (name, values) = (string(&mut text)?, string(&mut text)?);
        let Ok(name) = HeaderName::from_bytes(name) else { continue }; // `:method` and the like, which nobody asks for.
        for value in values.split(|byte| *byte == 0) {
            headers.try_append(name.clone(), HeaderValue::from_bytes(value).ok()?).ok()?;
        }
    }
    Some(headers)
}

/// Writes the blocks of one direction. It does without the dictionary, which zlib leaves to the writer.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Self {
        Self(Compress::new(Compression::fast(), true))
    }

    pub(super) fn block(&mut self, headers: &HeaderMap) -> io::Result<Vec<u8>> {
        let mut text = BytesMut::new();
        text.put_u32(headers.keys_len() as u32);
        for name in headers.keys() {
            let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            let values = values.join(&0);
            text.put_u32(name.as_str().len() as u32);
            text.put_slice(name.as_str().as_bytes());
            text.put_u32(values.len() as u32);
            text.put_slice(&values);
        }
        let mut out = Vec::with_capacity(text.len() + 64);
        let mut input = &text[..];
        loop {
            let before = self.0.total_in();
            self.0.compress_vec(input, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
            input = &input[(self.0.total_in() - before) as usize..];
            if input.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionary_is_the_draft_s() {
        let dictionary = dictionary();
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((dictionary.len(), b << 16 | a), (1423, DICTIONARY_ID));
    }

    #[test]
    fn reads_what_zlib_compressed_with_the_dictionary() {
        // Made with Python's zlib.compressobj(9, zdict=dictionary), flushed after each block.
        let blocks = [
            "78f9e3c6a7c202e50e703a2b294a4dcc851625c0149b920f2e88318b2a464300000000ffff",
            "c2aa85351514379092bc08a493d5c280c1c210000000ffff",
        ];
        let mut inflater = Inflater::new();
        let first = inflater.block(&hex::decode(blocks[0]).unwrap()).unwrap();
        assert_eq!((&first["streamtype"], &first["content-length"]), (&"stdout".parse().unwrap(), &"1".parse().unwrap()));
        let second = inflater.block(&hex::decode(blocks[1]).unwrap()).unwrap();
        assert_eq!(second.get_all("port").iter().collect::<Vec<_>>(), ["80", "81"]);
    }

    #[test]
    fn reads_what_it_writes() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        for round in 0..200 {
            let mut headers = HeaderMap::new();
            headers.append("streamtype", "error".parse().unwrap());
            headers.append("requestid", round.to_string().parse().unwrap());
            headers.append("long", "x".repeat(round * 50).parse().unwrap());
            assert_eq!(inflater.block(&deflater.block(&headers).unwrap()).unwrap(), headers);
        }
    }

    #[test]
    fn malformed_blocks_are_errors() {
        for bytes in ["", "78", "7801", "78f900000000", "ffffffffffff", "78bb00ff00ff00ff"] {
            assert!(Inflater::new().block(&hex::decode(bytes).unwrap()).is_err(), "{bytes}");
        }
        // A block that says it has four billion pairs, and one that unpacks to more than is allowed.
        let mut bomb = Compress::new(Compression::best(), true);
        let mut out = Vec::with_capacity(1 << 16);
        bomb.compress_vec(&vec![0xff; 1 << 20], &mut out, FlushCompress::Sync).unwrap();
        assert!(Inflater::new().block(&out).is_err());
        assert_eq!(parse(&[0xff; 64]), None);
    }
}

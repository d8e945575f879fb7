use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use tokio_util::codec::Decoder;

use super::{
    headers::{Deflater, Inflater},
    malformed,
};

/// The longest control frame that is accepted.
const LONGEST_CONTROL: usize = 64 * 1024;
/// The most bytes of a data frame that are handed on at once; a frame may be 16 MiB long.
const LONGEST_PIECE: usize = 32 * 1024;

const FIN: u8 = 1;
/// The setting that says how much may be sent on a stream before it is acknowledged.
const INITIAL_WINDOW_SIZE: u32 = 7;

/// A frame of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00, section 2.6), or a piece of a data frame.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        headers: HeaderMap,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: HeaderMap,
    },
    Rst {
        id: u32,
        status: u32,
    },
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    /// Of a type this version does not know; skipped.
    Unknown,
}

/// Reads frames.
pub(super) struct Reader {
    inflater: Inflater,
    /// The data frame that is being read: its stream, whether it is the last, the bytes to come.
    data: Option<(u32, bool, usize)>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { inflater: Inflater::new(), data: None }
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: &[u8]) -> io::Result<Frame> {
        let fin = flags & FIN != 0;
        let short = || malformed("control frame too short");
        let number = |body: &mut &[u8]| body.try_get_u32().map_err(|_| short());
        Ok(match kind {
            1 => {
                let id = number(&mut body)? & 0x7fff_ffff;
                let (_associated, _priority_and_slot) = (number(&mut body)?, body.try_get_u16().map_err(|_| short())?);
                Frame::SynStream { id, fin, headers: self.inflater.block(body)? }
            }
            2 => Frame::SynReply { id: number(&mut body)? & 0x7fff_ffff, fin, headers: self.inflater.block(body)? },
            3 => Frame::Rst { id: number(&mut body)? & 0x7fff_ffff, status: number(&mut body)? },
            4 => {
                let mut initial_window = None;
                for _ in 0..number(&mut body)? {
                    let (id, value) = (number(&mut body)? & 0x00ff_ffff, number(&mut body)?);
                    if id == INITIAL_WINDOW_SIZE {
                        initial_window = Some(value);
                    }
                }
                Frame::Settings { initial_window }
            }
            6 => Frame::Ping(number(&mut body)?),
            7 => Frame::GoAway { last: number(&mut body)? & 0x7fff_ffff, status: number(&mut body)? },
            8 => {
                let id = number(&mut body)? & 0x7fff_ffff;
                self.inflater.block(body)?; // Nobody asks for these, but the next block builds on them.
                Frame::Headers { id, fin }
            }
            9 => Frame::WindowUpdate { id: number(&mut body)? & 0x7fff_ffff, delta: number(&mut body)? & 0x7fff_ffff },
            _ => Frame::Unknown,
        })
    }
}

impl Decoder for Reader {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<Frame>> {
        if let Some((id, fin, left)) = self.data {
            if input.is_empty() {
                return Ok(None);
            }
            let data = input.split_to(left.min(input.len()).min(LONGEST_PIECE)).freeze();
            let left = left - data.len();
            self.data = (left > 0).then_some((id, fin, left));
            return Ok(Some(Frame::Data { id, fin: fin && left == 0, data }));
        }
        let Some(head) = input.first_chunk::<8>() else { return Ok(None) };
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if first & 0x8000_0000 == 0 {
            input.advance(8);
            if length == 0 {
                return Ok(Some(Frame::Data { id: first, fin: flags & FIN != 0, data: Bytes::new() }));
            }
            self.data = Some((first, flags & FIN != 0, length));
            return self.decode(input);
        }
        if first >> 16 & 0x7fff != 3 {
            return Err(malformed("version is not 3"));
        }
        if length > LONGEST_CONTROL {
            return Err(malformed("control frame longer than allowed"));
        }
        if input.len() < 8 + length {
            input.reserve(8 + length - input.len());
            return Ok(None);
        }
        let frame = input.split_to(8 + length);
        self.control((first & 0xffff) as u16, flags, &frame[8..]).map(Some)
    }
}

/// Writes frames.
pub(super) struct Writer(Deflater);

impl Writer {
    pub(super) fn new() -> Self {
        Self(Deflater::new())
    }

    pub(super) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> io::Result<()> {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let block = self.0.block(headers)?;
                control(out, 1, u8::from(*fin), 10 + block.len());
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { id, fin, headers } => {
                let block = self.0.block(headers)?;
                control(out, 2, u8::from(*fin), 4 + block.len());
                out.put_u32(*id);
                out.put_slice(&block);
            }
            Frame::Rst { id: first, status: second } => pair(out, 3, *first, *second),
            Frame::GoAway { last: first, status: second } => pair(out, 7, *first, *second),
            Frame::WindowUpdate { id: first, delta: second } => pair(out, 9, *first, *second),
            Frame::Settings { initial_window } => {
                let count = u32::from(initial_window.is_some());
                control(out, 4, 0, 4 + 8 * count as usize);
                out.put_u32(count);
                if let Some(window) = initial_window {
                    out.put_u32(INITIAL_WINDOW_SIZE);
                    out.put_u32(*window);
                }
            }
            Frame::Ping(id) => {
                control(out, 6, 0, 4);
                out.put_u32(*id);
            }
            Frame::Data { id, fin, data } => {
                out.put_u32(*id);
                out.put_u32(u32::from(*fin) << 24 | data.len() as u32);
                out.put_slice(data);
            }
            Frame::Headers { .. } | Frame::Unknown => {}
        }
        Ok(())
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length as u32);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(out, kind, 0, 8);
    out.put_u32(first);
    out.put_u32(second);
}

//! Protobuf's wire format: tags, varints, lengths.

use super::Error;

/// The value of one field on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Field<'a> {
    pub(crate) fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::Malformed("wire type is not length-delimited")),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::Malformed("string is not UTF-8"))
    }

    /// A signed number: gogo writes `int32` and `int64` as 64-bit two's complement.
    pub(crate) fn int(self) -> Result<i64, Error> {
        match self {
            Self::Varint(n) => Ok(n.cast_signed()),
            _ => Err(Error::Malformed("wire type is not varint")),
        }
    }

    pub(crate) fn double(self) -> Result<f64, Error> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            Self::Fixed32(bits) => Ok(f32::from_bits(bits).into()),
            _ => Err(Error::Malformed("wire type is not fixed")),
        }
    }
}

/// Calls `visit` with every field of a message in order.
pub(crate) fn each<'a>(mut bytes: &'a [u8], mut visit: impl FnMut(u32, Field<'a>) -> Result<(), Error>) -> Result<(), Error> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n != 0).ok_or(Error::Malformed("field number out of range"))?;
        let field = match tag & 7 {
            0 => Field::Varint(varint(&mut bytes)?),
            1 => Field::Fixed64(u64::from_le_bytes(fixed(&mut bytes)?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| Error::Malformed("length out of range"))?;
                let (head, rest) = bytes.split_at_checked(length).ok_or(Error::Malformed("unexpected end"))?;
                bytes = rest;
                Field::Bytes(head)
            }
            5 => Field::Fixed32(u32::from_le_bytes(fixed(&mut bytes)?)),
            _ => return Err(Error::Malformed("unknown wire type")),
        };
        visit(number, field)?;
    }
    Ok(())
}

/// Every number of a packed repeated field.
pub(super) fn packed(mut bytes: &[u8], mut visit: impl FnMut(i64)) -> Result<(), Error> {
    while !bytes.is_empty() {
        visit(varint(&mut bytes)?.cast_signed());
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(Error::Malformed("unexpected end"))?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::Malformed("varint too long"))
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Error> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(Error::Malformed("unexpected end"))?;
    *bytes = rest;
    Ok(*head)
}

fn put_raw(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    put_raw(out, u64::from(number) << 3);
    put_raw(out, value);
}

pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_raw(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_raw(out, u64::from(number) << 3 | 2);
    put_raw(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

//! Bytes of a connection are cut into messages only where these are whole.

use std::io::ErrorKind;

use bytes::BytesMut;
use sooner_postgres::client::{frame_length, read_more};

#[test]
fn a_message_ends_where_its_length_says() {
    for (buffer, length) in [
        (b"".as_slice(), None),
        (b"d\0\0\0".as_slice(), None),
        (b"Z\0\0\0\x04".as_slice(), Some(5)),
        (b"d\0\0\0\x06a".as_slice(), None),
        (b"d\0\0\0\x06ab".as_slice(), Some(7)),
        (b"d\0\0\0\x06abZ\0\0\0\x05I".as_slice(), Some(7)),
        (b"d\0\0\x01\0abc".as_slice(), None),
        (b"d\x40\0\0\0".as_slice(), None),
    ] {
        assert_eq!(frame_length(buffer).unwrap(), length, "{buffer:?}");
    }
}

#[test]
fn a_length_out_of_range_is_an_error_before_the_message_is_read() {
    for length in [0, 3, (1 << 30) + 5, u32::MAX] {
        let mut buffer = vec![b'd'];
        buffer.extend(length.to_be_bytes());
        assert_eq!(frame_length(&buffer).unwrap_err().kind(), ErrorKind::InvalidData, "{length}");
    }
}

#[tokio::test]
async fn reading_appends_until_the_other_side_closes() {
    let mut buffer = BytesMut::from(&b"ab"[..]);
    let mut stream = &b"cd"[..];
    read_more(&mut stream, &mut buffer).await.unwrap();
    assert_eq!(&buffer[..], b"abcd");
    let closed = read_more(&mut stream, &mut buffer).await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(&buffer[..], b"abcd", "what was read before is still there");
}

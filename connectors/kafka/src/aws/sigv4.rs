//! AWS Signature Version 4: from keys and a request to a presigned query, or to the headers that sign the request.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>. Without I/O and
//! without a clock: the same input has the same signature.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use sooner_schemas::temporal::push_zoned;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What stays as it is in a query: the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Keys of an identity at AWS.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKeys {
    /// Access key id, which is no secret.
    pub id: String,
    /// Secret access key.
    pub secret: String,
    /// Session token of temporary keys; none for keys that last.
    pub session: Option<String>,
}

impl std::fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsKeys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A request to be signed. Header names are in lower case, and `host` is one of them.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method: `GET` or `POST`.
    pub method: &'a str,
    /// Path as it is sent, beginning with a slash.
    pub path: &'a str,
    /// Parameters of the query, not yet encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// Headers that are signed.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body of the request.
    pub body: &'a [u8],
}

/// Signs requests to a service of a region, as of an instant.
pub struct Signer<'a> {
    keys: &'a AwsKeys,
    region: &'a str,
    service: &'a str,
    /// The instant: `20150830T123600Z`.
    stamp: String,
}

impl<'a> Signer<'a> {
    /// A signer for a service in a region, at an instant.
    pub fn new(keys: &'a AwsKeys, region: &'a str, service: &'a str, at: SystemTime) -> Signer<'a> {
        Signer { keys, region, service, stamp: stamp(at) }
    }

    /// Query that presigns a request for a time: whoever has it may send the request in the name of the keys' identity.
    pub fn presigned_query(&self, request: &Request<'_>, valid: Duration) -> String {
        let (credential, seconds) = (format!("{}/{}", self.keys.id, self.scope()), valid.as_secs().to_string());
        let signed = signed_names(request.headers);
        let mut query = request.query.to_vec();
        query.extend([
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &self.stamp),
            ("X-Amz-Expires", &seconds),
            ("X-Amz-SignedHeaders", &signed),
        ]);
        if let Some(session) = &self.keys.session {
            query.push(("X-Amz-Security-Token", session));
        }
        let signature = self.signature(&Request { query: &query, ..*request });
        format!("{}&X-Amz-Signature={signature}", canonical_query(&query))
    }

    /// Headers to be sent with a request beside its own: the date, the session token and `authorization`.
    pub fn headers(&self, request: &Request<'_>) -> Vec<(&'static str, String)> {
        let mut added = vec![("x-amz-date", self.stamp.clone())];
        added.extend(self.keys.session.clone().map(|session| ("x-amz-security-token", session)));
        let mut headers = request.headers.to_vec();
        headers.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
        let signature = self.signature(&Request { headers: &headers, ..*request });
        let (id, scope, signed) = (&self.keys.id, self.scope(), signed_names(&headers));
        let authorization =
            format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={signed}, Signature={signature}");
        added.push(("authorization", authorization));
        added
    }

    /// What a signature holds for: day, region and service.
    fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.day(), self.region, self.service)
    }

    fn day(&self) -> &str {
        self.stamp.get(..8).unwrap_or_default()
    }

    fn signature(&self, request: &Request<'_>) -> String {
        let hash = hex(&Sha256::digest(canonical_request(request)));
        let signed = format!("{ALGORITHM}\n{}\n{}\n{hash}", self.stamp, self.scope());
        let mut key = hmac_sha256(format!("AWS4{}", self.keys.secret).as_bytes(), self.day());
        for part in [self.region, self.service, "aws4_request", &signed] {
            key = hmac_sha256(&key, part);
        }
        hex(&key)
    }
}

fn canonical_request(request: &Request<'_>) -> String {
    let mut headers = request.headers.to_vec();
    headers.sort_unstable();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let (query, signed, hash) =
        (canonical_query(request.query), signed_names(request.headers), hex(&Sha256::digest(request.body)));
    format!("{}\n{}\n{query}\n{lines}\n{signed}\n{hash}", request.method, request.path)
}

fn canonical_query(query: &[(&str, &str)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    let mut pairs: Vec<_> = query.iter().map(|(name, value)| (encode(name), encode(value))).collect();
    pairs.sort_unstable();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

fn signed_names(headers: &[(&str, &str)]) -> String {
    let mut names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.join(";")
}

/// HMAC with SHA-256 (RFC 2104).
fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    let mut block = [0; 64];
    match block.get_mut(..key.len()) {
        Some(start) => start.copy_from_slice(key),
        None => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5C)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An instant as signatures have it: `20150830T123600Z`.
fn stamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = Vec::new();
    push_zoned(&mut text, i64::try_from(since.as_micros()).unwrap_or(i64::MAX), 0);
    let kept = text.into_iter().filter(|byte| !matches!(byte, b'-' | b':'));
    kept.map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2015-08-30T12:36:00Z, the instant of AWS' test suite.
    const AT: Duration = Duration::from_secs(1_440_938_160);
    const HOST: &[(&str, &str)] = &[("host", "example.amazonaws.com")];
    const SESSION: &str = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";

    fn keys(session: Option<&str>) -> AwsKeys {
        AwsKeys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session: session.map(str::to_owned),
        }
    }

    fn get<'a>(query: &'a [(&'a str, &'a str)]) -> Request<'a> {
        Request { method: "GET", path: "/", query, headers: HOST, body: b"" }
    }

    /// Signatures of the request in its headers, and in its query for an hour.
    fn signatures(keys: &AwsKeys, request: &Request<'_>) -> (String, String) {
        let signer = Signer::new(keys, "us-east-1", "service", UNIX_EPOCH + AT);
        let (_, authorization) = signer.headers(request).pop().unwrap();
        let query = signer.presigned_query(request, Duration::from_secs(3600));
        let last = |text: &str| text.rsplit_once("ignature=").unwrap().1.to_owned();
        (last(&authorization), last(&query))
    }

    /// Test cases 1, 2 and 6 of RFC 4231.
    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let known = [
            (vec![0x0b; 20], "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe".to_vec(),
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, text, expected) in known {
            assert_eq!(hex(&hmac_sha256(&key, text)), expected, "{text}");
        }
    }

    /// `tests/aws-signing-test-suite/v4` of github.com/awslabs/aws-c-auth: get-vanilla, -with-session-token,
    /// -query-order-key-case, -query-unreserved, get-utf8, post-header-key-sort and post-x-www-form-urlencoded; each
    /// with its header-signed and its query-signed request.
    #[test]
    fn signatures_are_those_of_aws_test_suite() {
        let unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let form = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("host", "example.amazonaws.com"),
            ("content-length", "13"),
        ];
        let hash = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
        let hashed: Vec<_> = form.iter().copied().chain([("x-amz-content-sha256", hash)]).collect();
        let post = Request { method: "POST", path: "/", query: &[], headers: &form, body: b"Param1=value1" };
        let sorted = [HOST[0], ("my-header1", "value1")];
        let (order, any) = ([("Param2", "value2"), ("Param1", "value1")], [(unreserved, unreserved)]);
        let cases = [
            (
                None,
                get(&[]),
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
                "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d",
            ),
            (
                Some(SESSION),
                get(&[]),
                "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
                "7ff2b50b376cb4d151970630573d6291dc128cc5c2a12ffb237f73cc53f67b6c",
            ),
            (
                None,
                get(&order),
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
                "86012e2c9ad4d77369f5d81c11f75158aae4f895a085212cc6d3f923d300bed5",
            ),
            (
                None,
                get(&any),
                "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
                "8e76a88a7433637b12778d5592799b29ad21ecd6cf6325051c21d86f0acda2bf",
            ),
            (
                None,
                Request { path: "/%E1%88%B4", ..get(&[]) },
                "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
                "10eae3f14a260bd3911cc6d008d3c576d143b05b62f09782a7a4b37f52178e44",
            ),
            (
                None,
                Request { method: "POST", headers: &sorted, ..get(&[]) },
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
                "c09d07e0d55871f10f2a6d350d994acf6825a3cae70673d7def55616e6119dd7",
            ),
        ];
        for (session, request, header, query) in cases {
            assert_eq!(signatures(&keys(session), &request), (header.to_owned(), query.to_owned()), "{request:?}");
        }
        // The suite signs the hash of a body as a header, and not in a query.
        let (header, _) = signatures(&keys(None), &Request { headers: &hashed, ..post });
        assert_eq!(header, "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b");
        let (_, query) = signatures(&keys(None), &post);
        assert_eq!(query, "89a40deed0f26f9461242825a082d2222717248abc7ab41f552ad84a94ad46e9");
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", keys(Some("hidden"))), "AwsKeys { id: \"AKIDEXAMPLE\", .. }");
    }
}

//! The region of an AWS service: told by the configuration, by a host's name, or by the environment; and the partition
//! of AWS that a region belongs to.

use std::env;

/// Variables that name the region, as AWS' own tools know them.
const VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// Region in the host name of a broker of Amazon MSK, such as `b-1.shop.c2.kafka.eu-west-1.amazonaws.com:9098`; of the
/// first of several brokers that has one.
pub fn region_of_brokers(brokers: &str) -> Option<&str> {
    brokers.split(',').find_map(|broker| {
        let host = broker.trim().split(':').next().unwrap_or_default();
        let name = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
        let (before, region) = name.rsplit_once('.')?;
        let service = before.rsplit('.').next()?;
        matches!(service, "kafka" | "kafka-serverless").then_some(region)
    })
}

/// Region that the environment names; none if it names none.
pub fn region_of_environment() -> Option<String> {
    VARIABLES.iter().find_map(|name| env::var(name).ok()).filter(|region| !region.is_empty())
}

/// Whether a text may be a region. It becomes part of a host's name, so it must not name another host.
pub fn is_region(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Partition of AWS that a region belongs to, as ARNs name it.
pub fn partition_of(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// Domain of the services in a region.
pub fn domain_of(region: &str) -> &'static str {
    match partition_of(region) {
        "aws-cn" => "amazonaws.com.cn",
        _ => "amazonaws.com",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_of_msk_tell_their_region() {
        let known = [
            ("b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com:9098,b-2.x:9098", Some("eu-west-1")),
            ("boot-abc.c1.kafka-serverless.us-east-1.amazonaws.com:9098", Some("us-east-1")),
            ("kafka:9092, b-1.shop.c2.kafka.cn-north-1.amazonaws.com.cn:9098", Some("cn-north-1")),
            ("kafka:9092", None),
            ("s3.eu-west-1.amazonaws.com", None),
        ];
        for (brokers, region) in known {
            assert_eq!(region_of_brokers(brokers), region, "{brokers}");
        }
        assert!(is_region("us-gov-west-1") && !is_region("evil.example/") && !is_region(""));
        assert_eq!((partition_of("us-gov-west-1"), partition_of("eu-west-1")), ("aws-us-gov", "aws"));
        assert_eq!((domain_of("cn-north-1"), domain_of("eu-west-1")), ("amazonaws.com.cn", "amazonaws.com"));
    }
}

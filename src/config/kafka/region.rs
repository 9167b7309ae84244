//! The key `region` of sections that reach a service of AWS.

use sooner_kafka::aws::region::{is_region, region_of_environment};

use crate::config::reader::Section;

/// Reads `region`: where it is missing, the region that a host's name tells, or that of the environment.
pub fn read_region(section: &mut Section, told: Option<&str>) -> Option<String> {
    let is_written = section.has("region");
    let written = section.optional("region", |text| match is_region(text) {
        true => Ok(text.to_owned()),
        false => Err("expected a region of AWS such as \"eu-west-1\"".to_owned()),
    });
    if is_written {
        return written;
    }
    let region = told.map(str::to_owned).or_else(region_of_environment).filter(|region| is_region(region));
    if region.is_none() {
        section.problem("region", "is missing; set it, or AWS_REGION");
    }
    region
}

//! How policies of hosts, subsets and ports come together.

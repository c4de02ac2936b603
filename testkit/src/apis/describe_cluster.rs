//! DescribeCluster: the brokers that are up, and the cluster's id. v1 asks about controllers, too, which this cluster has no
//! addresses of: `UNSUPPORTED_ENDPOINT_TYPE`. v2 can list brokers that are down as fenced.

use milena_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use milena_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::{Api, Call, Served};
use crate::state::State;

pub(crate) struct DescribeCluster;

impl Api for DescribeCluster {
    type Request = DescribeClusterRequest;

    fn serve(state: &mut State, call: &Call, request: DescribeClusterRequest) -> Served<DescribeClusterResponse> {
        let mut response = DescribeClusterResponse::default().with_cluster_id(state.cluster_id.clone());
        let endpoints = if call.version >= 1 && request.endpoint_type != 1 {
            Err(ErrorCode::UNSUPPORTED_ENDPOINT_TYPE)
        } else {
            Ok(())
        };
        if let Err(code) = call.injected_for_request().and(endpoints) {
            response.error_code = code.0;
            return Served::Now(response);
        }
        response.controller_id = BrokerId(state.controller().unwrap_or(-1));
        response.cluster_authorized_operations = i32::MIN;
        let fenced = call.version >= 2 && request.include_fenced_brokers;
        let listed = state.brokers.iter().filter(|(_, broker)| broker.up || fenced);
        response.brokers = listed
            .map(|(id, broker)| {
                DescribeClusterBroker::default()
                    .with_broker_id(BrokerId(*id))
                    .with_host(StrBytes::from_string(broker.host.clone()))
                    .with_port(i32::from(broker.port))
                    .with_rack(broker.rack.clone().map(StrBytes::from_string))
                    .with_is_fenced(fenced && !broker.up)
            })
            .collect();
        Served::Now(response)
    }
}

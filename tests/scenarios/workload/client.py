"""What an application in Python does with the Workload API, by the published client; prints what it got."""

import threading

from spiffe import WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError

client = WorkloadApiClient()
context = client.fetch_x509_context()
svid = context.default_svid
print("svid", svid.spiffe_id)
bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
print("bundle", len(bundle.x509_authorities))

with X509Source() as source:
    first = source.svid.leaf.serial_number
    changed = threading.Event()
    source.subscribe_for_updates(lambda: changed.set() if source.svid.leaf.serial_number != first else None)
    if not changed.wait(30):
        raise SystemExit("no rotation within 30 s")
    print("rotated", source.svid.spiffe_id)

try:
    client.fetch_jwt_bundles()
except PySpiffeError as error:
    print("jwt refused" if "JWT-SVID" in str(error) else f"jwt: {error}")

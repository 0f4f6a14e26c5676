"""The HTTP side: REST resources, API keys, presigned URLs, the dashboard. Knows tables; knows no worker, no codec."""

"""Deployment: settings of Compose, and the definitions of the dashboards."""

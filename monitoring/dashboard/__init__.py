"""The dashboard: `streamlit run monitoring/dashboard/app.py`."""

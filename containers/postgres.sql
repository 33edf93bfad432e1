-- Run once, when the volume is new.
CREATE DATABASE feast;
CREATE DATABASE mlflow;

#!/bin/sh
echo "an application"

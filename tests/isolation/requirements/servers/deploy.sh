#!/bin/bash
ssh -n root@@PROD@ true
